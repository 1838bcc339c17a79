"""``/tokenize`` and ``/detokenize``: clients count with them. The engine isn't asked.

Counterpart in vLLM: ``vllm/entrypoints/serve/tokenize/`` (the same fields). Left out: chat
templates from clients, tools, ``/tokenizer_info``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from flask import Blueprint, Response, g, request

from minivllm.api.answers import Text, Tokens
from minivllm.api.body import parse, read_body
from minivllm.api.errors import ApiError, json_response
from minivllm.api.protocol import Message, TokenId, says
from minivllm.api.service import Service
from minivllm.engine.chat_messages import normalise_messages

MAX_CHARS = 2**20
"""Of a text to be tokenised, or ids to be made text: about a second of a core's time."""


class TokenizePrompt(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: Annotated[str, says(maxLength=MAX_CHARS)]
    add_special_tokens: bool | None = True
    """Put before it what the model's texts begin with (BOS), if they do."""
    return_token_strs: bool | None = False


class TokenizeMessages(msgspec.Struct, kw_only=True):
    model: str | None = None
    messages: Annotated[list[Message], says(minItems=1)]
    add_generation_prompt: bool | None = True
    """End with the frame of the answer to come."""
    return_token_strs: bool | None = False


class Detokenize(msgspec.Struct, kw_only=True):
    model: str | None = None
    tokens: Annotated[list[TokenId], says(maxItems=MAX_CHARS)]


# What of vLLM's fields is not built, with the values that change nothing.
_PROMPT_NOT_BUILT: dict[str, tuple[Any, ...]] = {"messages": ()}
_MESSAGES_NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),  # the chat template writes them
    "tools": (),
}


@dataclass(slots=True)
class TokenizeRoutes:
    service: Service

    def add_to(self, bp: Blueprint) -> None:
        bp.post("/tokenize", endpoint="tokenize")(lambda: self._bounded(self.tokenize))
        bp.post("/detokenize", endpoint="detokenize")(lambda: self._bounded(self.detokenize))

    def tokenize(self) -> Response:
        body = read_body(request)
        if body.get("messages") is not None and body.get("prompt") is None:
            asked: TokenizePrompt | TokenizeMessages
            asked = parse(body, TokenizeMessages, _MESSAGES_NOT_BUILT)
            token_ids = self._chat_ids(asked)
        else:
            asked = parse(body, TokenizePrompt, _PROMPT_NOT_BUILT)
            token_ids = self._ids(asked)
        self.service.check_model(asked.model)
        piece = self.service.llm.tokenizer.piece
        return json_response(
            Tokens(
                count=len(token_ids),
                max_model_len=self.service.llm.max_model_len,
                tokens=token_ids,
                token_strs=[piece(i) for i in token_ids] if asked.return_token_strs else None,
            )
        )

    def _bounded(self, route: Callable[[], Response]) -> Response:
        """A body that comes slowly holds a thread: only so many may, at once."""
        leave = self.service.limits.short_requests.enter()
        try:
            return route()
        finally:
            leave()

    def _ids(self, asked: TokenizePrompt) -> list[int]:
        _check_size(len(asked.prompt), "prompt")
        special = asked.add_special_tokens is not False
        return self.service.llm.tokenizer.encode(asked.prompt, add_special_tokens=special)

    def _chat_ids(self, asked: TokenizeMessages) -> list[int]:
        g.prompt_field = "messages"
        messages = normalise_messages(asked.messages)
        # The frame of a message costs time, too, though it has no content.
        _check_size(sum(16 + len(m["role"]) + len(m["content"]) for m in messages), "messages")
        opened = asked.add_generation_prompt is not False
        return self.service.llm.tokenizer.encode_chat(messages, add_generation_prompt=opened)

    def detokenize(self) -> Response:
        asked = parse(read_body(request), Detokenize, {})
        self.service.check_model(asked.model)
        _check_size(len(asked.tokens), "tokens", "ids")
        tokenizer = self.service.llm.tokenizer
        for i, token_id in enumerate(asked.tokens):
            if not 0 <= token_id < tokenizer.vocab_size:
                raise ApiError(
                    400,
                    f"tokens[{i}] must be an id of the vocabulary, 0 to {tokenizer.vocab_size - 1} "
                    f"(its size is {tokenizer.vocab_size}), got {token_id}",
                    param="tokens",
                )
        return json_response(Text(prompt=tokenizer.decode(asked.tokens, skip_special_tokens=False)))


def _check_size(size: int, param: str, unit: str = "characters") -> None:
    if size > MAX_CHARS:
        message = f"{param} may have at most {MAX_CHARS} {unit}, got {size}"
        raise ApiError(400, message, param=param)
