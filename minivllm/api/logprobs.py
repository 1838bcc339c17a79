"""Logprobs as the routes write them.

Counterpart in vLLM: ``_create_completion_logprobs`` and ``_create_chat_logprobs`` in the two
``serving.py``. JSON has no -inf, so all of them stand on a floor. How tokens are named that are no
whole characters: ``engine/token_names.py``.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from minivllm.api.answers import (
    ChatLogprobs,
    ChosenTokenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
)
from minivllm.engine.input_processor import TokenizerLike
from minivllm.outputs import CompletionOutput, Logprob, RequestOutput

LOGPROB_FLOOR = -9999.0

Row = dict[int, Logprob]
"""One position: token id → logprob, the token that stands there first."""


def floored(logprob: Logprob) -> float:
    return max(logprob.logprob, LOGPROB_FLOOR)


def chat_logprobs(
    tokenizer: TokenizerLike, output: CompletionOutput, top: int
) -> ChatLogprobs | None:
    """The chosen token of each position, and the ``top`` likeliest beside it."""
    if not output.logprobs:
        return None

    def token(token_id: int, logprob: Logprob) -> TokenLogprob:
        bytes_ = list(tokenizer.token_bytes(token_id))
        return TokenLogprob(token=logprob.decoded_token, logprob=floored(logprob), bytes=bytes_)

    content = []
    for token_id, row in zip(output.token_ids, output.logprobs, strict=False):
        best = sorted(row, key=lambda i: -row[i].logprob)[:top]
        chosen = token(token_id, row[token_id])
        content.append(
            ChosenTokenLogprob(
                token=chosen.token,
                logprob=chosen.logprob,
                bytes=chosen.bytes,
                top_logprobs=[token(i, row[i]) for i in best],
            )
        )
    return ChatLogprobs(content=content)


def no_columns() -> CompletionLogprobs:
    return CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])


def add_entry(
    columns: CompletionLogprobs, offset: int, text: str, row: Row | None, token_id: int, top: int
) -> None:
    """One token more in the columns; ``row`` is None where nothing precedes it."""
    columns.text_offset.append(offset)
    columns.tokens.append(text)
    columns.token_logprobs.append(None if row is None else floored(row[token_id]))
    columns.top_logprobs.append(None if row is None else _by_text(row, top))


def _by_text(row: Row, top: int) -> dict[str, float]:
    """Token name to logprob, the chosen token and the ``top`` likeliest."""
    best = sorted(list(row.values())[: top + 1], key=lambda logprob: -logprob.logprob)
    return {logprob.decoded_token: floored(logprob) for logprob in best}


def prompt_logprobs(output: RequestOutput) -> PromptLogprobs | UnsetType:
    """vLLM's field, for a request that asked for it."""
    if output.prompt_logprobs is None:
        return UNSET
    return [None if row is None else _by_id(row) for row in output.prompt_logprobs]


def _by_id(row: Row) -> dict[int, PromptLogprob]:
    return {
        token_id: PromptLogprob(
            logprob=floored(logprob), rank=logprob.rank, decoded_token=logprob.decoded_token
        )
        for token_id, logprob in row.items()
    }
