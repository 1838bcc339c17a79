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
        skip_special_tokens: bool = True,
    ) -> None:
        """``num_top_logprobs``: None if no logprobs were asked for."""
        self._tokenizer = tokenizer
        self._echo, self._top = echo, num_top_logprobs
        self._tell_prompt_logprobs = tell_prompt_logprobs
        self._hides_special = skip_special_tokens
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
        """``text_offset`` is a place in the text, that of an echoed prompt included. What is not
        shown in it (EOS, a BOS that nobody wrote) takes no room there."""
        if self._top is None:
            return None
        columns = no_columns()
        if echoed is not None:
            self._add_prompt(columns, echoed, self._top)
            self._offsets[index] = len(self._prompt_text(echoed))
        for token_id, row in zip(output.token_ids, output.logprobs or [], strict=False):
            name = row[token_id].decoded_token
            add_entry(columns, self._offsets[index], name, row, token_id, self._top)
            if not (self._hides_special and token_id in self._tokenizer.all_special_ids):
                self._offsets[index] += len(name)
        return columns

    def _add_prompt(self, columns: CompletionLogprobs, of: RequestOutput, top: int) -> None:
        ids, rows = of.prompt_token_ids, of.prompt_logprobs or []
        names = [row[i].decoded_token if row else "" for i, row in zip(ids, rows, strict=False)]
        names[:1] = [self._tokenizer.text_after(i, []) for i in ids[:1]]
        # A BOS, or the space that some tokenizers put before all, is in no text: it stands before.
        offset = min(0, len(self._prompt_text(of)) - sum(map(len, names)))
        for token_id, row, name in zip(ids, rows, names, strict=False):
            add_entry(columns, max(offset, 0), name, row, token_id, top)
            offset += len(name)
