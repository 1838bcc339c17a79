"""Redaction: an event without what was said. For a server whose prompts are nobody's business.

A token id becomes 0 and a text "…", one for one, so that lengths, positions and decisions stay and
the state folds as before. Block hashes stay: they tell that two prompts begin alike, and whoever
guesses a whole prompt can check the guess. Give requests a ``cache_salt`` where that matters.

Fields are known by their names, so a new kind that keeps to them is covered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minivllm.trace.events import Data

TEXT = "…"
_TEXTS = {"text", "texts", "cache_salt", "stop_reason"}
_KEPT = {"eos_token_id"}
_EVERYTHING = {"params"}
"""Whatever stands in these is the caller's, but for numbers and switches."""


def redacted(data: Data) -> Data:
    """The same event with texts and token ids replaced. A source's text is code, and stays."""
    if data.KIND == "run.source":
        return data
    changed = _fields(data)
    if hasattr(data, "message") and data.KIND != "trace.violation":
        changed["message"] = TEXT  # an error quotes what it refuses: a prompt, a schema
    return msgspec.structs.replace(data, **changed) if changed else data


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if name in _EVERYTHING:
            changed[name] = {key: _option(item) for key, item in value.items()}
        elif name in _TEXTS or (name.endswith(("token_id", "token_ids")) and name not in _KEPT):
            changed[name] = _blank(value)
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            changed[name] = [msgspec.structs.replace(row, **_fields(row)) for row in value]
    return changed


def _blank(value: Any) -> Any:
    if isinstance(value, str):
        return TEXT if value else value
    if isinstance(value, (list, tuple)):
        return [_blank(item) for item in value]
    if isinstance(value, dict):
        return {TEXT: len(value)} if value else value
    return 0 if isinstance(value, int) else value


def _option(value: Any) -> Any:
    """Of the sampling parameters, a number or a switch says nothing about the prompt."""
    return _blank(value) if isinstance(value, (str, list, tuple, dict)) else value
