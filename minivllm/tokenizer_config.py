"""What stands beside a vocabulary: the chat template, the named tokens, and what ends a text.

Read from a model directory's JSON files, which anybody may have written: a field of the wrong kind
is told with its file. Counterpart in vLLM: transformers' ``tokenizer_config.json`` and
``generation_config.json``. Left out: every key that names code (``auto_map``, ``tokenizer_class``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivllm.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What stands beside the vocabulary."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    generation_eos_ids: tuple[int, ...] = ()
    """What ``generation_config.json`` says ends a text; a chat model often names several."""


def config_of_directory(directory: Path) -> TokenizerConfig:
    """``tokenizer_config.json``, and the template in a file of its own where there is one."""
    path, template_path = directory / "tokenizer_config.json", directory / "chat_template.jinja"
    fields = json_object(path)
    template = fields.get("chat_template")
    if isinstance(template, list):  # several templates by name
        if not all(isinstance(entry, dict) for entry in template):
            raise _damaged(path, "chat_template", template, "a text, or a list of objects")
        named = [entry for entry in template if entry.get("name") == "default"]
        template = named[-1].get("template") if named else None
    try:
        if template_path.is_file():
            template = template_path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{template_path} is damaged: {error}") from None
    return TokenizerConfig(
        _text(path, "chat_template", template),
        _token(path, "bos_token", fields),
        _token(path, "eos_token", fields),
        _generation_eos_ids(directory / "generation_config.json"),
    )


def saved_config(path: Path) -> TokenizerConfig:
    """What was kept beside a converted tokenizer."""
    fields = json_object(path)
    if missing := {"chat_template", "bos_token", "eos_token"} - fields.keys():
        raise ModelFileError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return TokenizerConfig(
        _text(path, "chat_template", fields.get("chat_template")),
        _text(path, "bos_token", fields.get("bos_token")),
        _text(path, "eos_token", fields.get("eos_token")),
    )


def _generation_eos_ids(path: Path) -> tuple[int, ...]:
    """``eos_token_id`` of a ``generation_config.json``: an id, a list of them, or nothing."""
    given = json_object(path).get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise _damaged(path, "eos_token_id", given, "an id or a list of ids")
    return tuple(ids)


def json_object(path: Path) -> dict[str, Any]:
    """What the file says; nothing where there is no file. Raises ModelFileError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is damaged: it holds no JSON object")
    return value


def _token(path: Path, field: str, fields: dict[str, Any]) -> str | None:
    """A token is a text, or an object with ``content``."""
    given = fields.get(field)
    return _text(path, field, given.get("content") if isinstance(given, dict) else given)


def _text(path: Path, field: str, given: Any) -> str | None:
    if given is not None and not isinstance(given, str):
        raise _damaged(path, field, given, "a text")
    return given


def _damaged(path: Path, field: str, given: Any, allowed: str) -> ModelFileError:
    return ModelFileError(f"{path} is damaged: {field} is {given!r:.60}; allowed: {allowed}")
