"""``/v1/chat/completions``: how a chat's choices and chunks are written.

Counterpart in vLLM: ``vllm/entrypoints/openai/chat_completion/serving.py``. Left out: tools,
reasoning, images and sound.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from minivllm.api.answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    Usage,
)
from minivllm.api.logprobs import chat_logprobs, prompt_logprobs
from minivllm.engine.input_processor import TokenizerLike
from minivllm.outputs import CompletionOutput, RequestOutput


class ChatFormat:
    waits_for_prompt_logprobs = False

    def __init__(self, tokenizer: TokenizerLike, num_top_logprobs: int | None) -> None:
        """``num_top_logprobs``: None if no logprobs were asked for."""
        self._tokenizer = tokenizer
        self._top = num_top_logprobs

    def choice(self, index: int, of: RequestOutput, output: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            index=index,
            message=AssistantMessage(content=output.text),
            logprobs=self._logprobs(output),
            finish_reason=output.finish_reason,  # type: ignore[arg-type]  # failures are no choices
            stop_reason=output.stop_reason,
        )

    def answer(
        self, head: dict[str, Any], choices: list[Any], usage: Usage, outputs: list[RequestOutput]
    ) -> ChatCompletion:
        (output,) = outputs  # a chat has one prompt
        return ChatCompletion(
            **head, choices=choices, usage=usage, prompt_logprobs=prompt_logprobs(output)
        )

    def opening(self, index: int) -> ChatChunkChoice:
        """The first chunk tells the role and no text."""
        return ChatChunkChoice(index=index, delta=ChatDelta(role="assistant", content=""))

    def deltas(
        self, index: int, of: RequestOutput, output: CompletionOutput
    ) -> list[ChatChunkChoice]:
        made = []
        logprobs = self._logprobs(output)
        if output.text or logprobs is not None:
            delta = ChatDelta(content=output.text)
            made.append(ChatChunkChoice(index=index, delta=delta, logprobs=logprobs))
        if output.finish_reason is not None:
            made.append(
                ChatChunkChoice(
                    index=index,
                    delta=ChatDelta(),
                    finish_reason=output.finish_reason,  # type: ignore[arg-type]
                    stop_reason=output.stop_reason,
                )
            )
        return made

    def chunk(
        self, head: dict[str, Any], choices: list[Any], usage: Usage | UnsetType | None = UNSET
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(**head, choices=choices, usage=usage)

    def _logprobs(self, output: CompletionOutput) -> ChatLogprobs | None:
        return None if self._top is None else chat_logprobs(self._tokenizer, output, self._top)
