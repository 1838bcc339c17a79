"""``/v1/chat/completions``: how a chat's choices and chunks are written.

Counterpart in vLLM: ``vllm/entrypoints/openai/chat_completion/serving.py``. Left out: tools,
reasoning, images and sound.
"""

from __future__ import annotations

from typing import Any

from minivllm.engine.input_processor import TokenizerLike
from minivllm.outputs import CompletionOutput, Logprob

LOGPROB_FLOOR = -9999.0
"""JSON has no -inf."""


class ChatFormat:
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prompt_logprobs_in_choice = False

    def __init__(self, tokenizer: TokenizerLike, num_top_logprobs: int | None) -> None:
        """``num_top_logprobs``: None if no logprobs were asked for."""
        self._tokenizer = tokenizer
        self._top = num_top_logprobs

    def choice(self, index: int, output: CompletionOutput) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": output.text, "refusal": None},
            "logprobs": self._logprobs(output),
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk tells the role and no text."""
        return _chunk_choice(index, {"role": "assistant", "content": ""})

    def deltas(self, index: int, output: CompletionOutput) -> list[dict[str, Any]]:
        made = []
        logprobs = self._logprobs(output)
        if output.text or logprobs is not None:
            made.append(_chunk_choice(index, {"content": output.text}, logprobs))
        if output.finish_reason is not None:
            last = _chunk_choice(index, {}) | {"finish_reason": output.finish_reason}
            made.append(last | {"stop_reason": output.stop_reason})
        return made

    def _logprobs(self, output: CompletionOutput) -> dict[str, Any] | None:
        if self._top is None or not output.logprobs:
            return None
        rows = zip(output.token_ids, output.logprobs, strict=False)
        return {
            "content": [self._position(token_id, row) for token_id, row in rows],
            "refusal": None,
        }

    def _position(self, token_id: int, row: dict[int, Logprob]) -> dict[str, Any]:
        best = sorted(row, key=lambda i: -row[i].logprob)[: self._top]
        return self._token(token_id, row[token_id]) | {
            "top_logprobs": [self._token(i, row[i]) for i in best]
        }

    def _token(self, token_id: int, logprob: Logprob) -> dict[str, Any]:
        return {
            "token": logprob.decoded_token,
            "logprob": max(logprob.logprob, LOGPROB_FLOOR),
            "bytes": list(self._tokenizer.token_bytes(token_id)),
        }


def _chunk_choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
