"""The messages of a chat as the model's template takes them: a role and a text each.

OpenAI's messages can hold more: parts, images, tool calls. What is text is joined; what the model
would not be shown is refused by name, since dropping it would answer another conversation.
Counterpart in vLLM: ``vllm/entrypoints/chat_utils.py``. Left out: images and sound, tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minivllm.errors import PromptError

_SAME_ROLE = {"developer": "system"}
"""OpenAI's newer name, which no template here knows."""


def normalise_messages(messages: Any) -> list[dict[str, Any]]:
    """Chat messages with plain text as content; parts of type ``text`` are joined.

    Raises PromptError that names the message. Roles are left to the model's template.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise PromptError("messages must be a list with at least one message")
    return [_normalise(message, i) for i, message in enumerate(messages)]


def _normalise(message: Any, i: int) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(
            f"messages[{i}] must be an object with role and content, got {type(message).__name__}"
        )
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise PromptError(f"messages[{i}].role must be a non-empty string, got {role!r}")
    check_surrogates(role, f"messages[{i}].role")
    if isinstance(content, list):
        content = "".join(
            _part_text(part, f"messages[{i}].content[{k}]") for k, part in enumerate(content)
        )
    if role == "assistant":
        if message.get("tool_calls") or message.get("function_call"):
            raise PromptError(
                f"messages[{i}] calls a tool, which the model would not be shown: write the call "
                f"as text in content, or leave the message out"
            )
        if content is None and "content" in message:
            content = ""
    if not isinstance(content, str):
        raise PromptError(
            f"messages[{i}].content must be a string or a list of text parts, "
            f"got {type(content).__name__}"
        )
    return {"role": _SAME_ROLE.get(role, role), "content": content}


def _part_text(part: Any, where: str) -> str:
    if (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    ):
        return str(part["text"])
    given = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise PromptError(
        f"{where} must be {{'type': 'text', 'text': ...}}; other kinds are not read, got {given!r}"
    )


def check_surrogates(text: str, where: str) -> None:
    """A lone surrogate (half of a UTF-16 pair) is no character, and no tokenizer takes it."""
    position = None if text.isascii() else first_surrogate(text)
    if position is not None:
        raise PromptError(
            f"{where} is not valid Unicode: a lone surrogate "
            f"(U+{ord(text[position]):04X}) stands at character {position}"
        )


def first_surrogate(text: str) -> int | None:
    """Its place in the text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None
