"""``/v1/completions``: how a completion's choices and chunks are written.

OpenAI's older route, and the plain way to the engine: the prompt is taken as it is, as text or as
token ids, without a chat template, and ``echo`` gives it back in front of the answer.
Counterpart in vLLM: ``vllm/entrypoints/openai/completion/serving.py``. Left out: suffix, best_of.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from msgspec import UNSET, UnsetType

from minivllm.api.answers import Completion, CompletionChoice, CompletionLogprobs, Usage
from minivllm.api.logprobs import add_entry, no_columns, prompt_logprobs
from minivllm.engine.input_processor import TokenizerLike
from minivllm.outputs import CompletionOutput, RequestOutput


class CompletionFormat:
    def __init__(
        self,
        tokenizer: TokenizerLike,
        *,
        echo: bool = False,
        num_top_logprobs: int | None = None,
        tell_prompt_logprobs: bool = False,
    ) -> None:
        """``num_top_logprobs``: None if no logprobs were asked for."""
        self._tokenizer = tokenizer
        self._echo, self._top = echo, num_top_logprobs
        self._tell_prompt_logprobs = tell_prompt_logprobs
        self._echoed: set[int] = set()  # choices that have given the prompt back
        self._offsets: dict[int, int] = defaultdict(int)  # choice -> characters told so far

    @property
    def waits_for_prompt_logprobs(self) -> bool:
        return self._echo and self._top is not None

    def choice(self, index: int, of: RequestOutput, output: CompletionOutput) -> CompletionChoice:
        echoes = self._echo and index not in self._echoed
        self._echoed.add(index)
        return CompletionChoice(
            index=index,
            text=(self._prompt_text(of) if echoes else "") + output.text,
            logprobs=self._logprobs(index, of if echoes else None, output),
            finish_reason=output.finish_reason,  # type: ignore[arg-type]  # failures are no choices
            stop_reason=output.stop_reason,
            prompt_logprobs=prompt_logprobs(of) if self._tell_prompt_logprobs else UNSET,
        )

    def answer(
        self, head: dict[str, Any], choices: list[Any], usage: Usage, outputs: list[RequestOutput]
    ) -> Completion:
        return Completion(**head, choices=choices, usage=usage)

    def opening(self, index: int) -> None:
        return None

    def deltas(
        self, index: int, of: RequestOutput, output: CompletionOutput
    ) -> list[CompletionChoice]:
        echoes = self._echo and index not in self._echoed
        if output.text or output.logprobs or output.finish_reason is not None or echoes:
            return [self.choice(index, of, output)]
        return []

    def chunk(
        self, head: dict[str, Any], choices: list[Any], usage: Usage | UnsetType | None = UNSET
    ) -> Completion:
        return Completion(**head, choices=choices, usage=usage)

    def _prompt_text(self, of: RequestOutput) -> str:
        if of.prompt is not None:
            return of.prompt
        return self._tokenizer.decode(of.prompt_token_ids, skip_special_tokens=False)

    def _logprobs(
        self, index: int, echoed: RequestOutput | None, output: CompletionOutput
    ) -> CompletionLogprobs | None:
        """``text_offset`` counts characters of tokens, those of an echoed prompt among them."""
        if self._top is None:
            return None
        tokens = list(zip(output.token_ids, output.logprobs or [], strict=False))
        if echoed is not None:
            rows = echoed.prompt_logprobs or []
            tokens = [*zip(echoed.prompt_token_ids, rows, strict=False), *tokens]  # type: ignore[list-item]
        columns = no_columns()
        for token_id, row in tokens:
            text = row[token_id].decoded_token if row else self._tokenizer.token_text(token_id)
            add_entry(columns, self._offsets[index], text, row, token_id, self._top)
            self._offsets[index] += len(text)
        return columns
