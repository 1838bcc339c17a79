"""Small words that every sentence made from events needs: plurals and lists."""

from __future__ import annotations

import json
from collections.abc import Sequence


def count(n: int, noun: str) -> str:
    """``1 block``, ``3 blocks``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def are(n: int) -> str:
    return "is" if n == 1 else "are"


def join(items: Sequence[object], most: int = 8) -> str:
    """``a``, ``a and b``, ``a, b and c``; beyond ``most`` the rest is counted."""
    words = [str(item) for item in items]
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def knob_value(value: object) -> str:
    """``on``, ``off``, a number or a word."""
    if isinstance(value, bool):
        return "on" if value else "off"
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def as_json(value: object) -> str:
    """A value as the page shows it, which knows JSON only: a whole number has no point there."""

    def plain(each: object) -> object:
        if isinstance(each, dict):
            return {str(name): plain(one) for name, one in each.items()}
        if isinstance(each, (list, tuple)):
            return [plain(one) for one in each]
        return int(each) if isinstance(each, float) and each.is_integer() else each

    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))


def span(first: int, last: int) -> str:
    """``token 5``, ``tokens 5–8``."""
    return f"token {first}" if first == last else f"tokens {first}–{last}"
