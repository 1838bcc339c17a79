"""StructuredOutputsParams: what form a request's text must have.

Counterpart in vLLM: ``StructuredOutputsParams`` in ``vllm/sampling_params.py``. Whoever makes one
learns at once what is wrong with it, as far as that can be told without a compiler.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minivllm.errors import StructuredOutputError
from minivllm.structured_output.limits import check_choice, check_grammar, check_regex, check_schema

KINDS = ("json", "json_object", "regex", "choice", "grammar")


class GrammarSpec(msgspec.Struct, frozen=True):
    """A grammar by its content: equal specs share one compilation."""

    kind: str
    """``json`` | ``regex`` | ``grammar``: a choice has become a grammar, an object a schema."""
    text: str
    compact: bool = False
    """JSON without white space of the model's own."""


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of the first five.

    EOS can be sampled only where the grammar may end, and then always ends the output, whatever
    ``ignore_eos`` and ``min_tokens`` say: nothing else could follow. ``min_tokens`` still puts EOS
    off while the grammar offers anything else. Stop ids and stop strings end it as ever, and so
    may cut the structure short, as ``max_tokens`` may. Raises StructuredOutputError.
    """

    json: dict[str, Any] | str | None = None
    """A JSON Schema, as an object or as its text. Kept as text: msgpack has no number of more than
    64 bits, which a schema may name, and no order of keys."""
    json_object: bool = False
    """Any JSON object."""
    regex: str | None = None
    """The whole text must match."""
    choice: list[str] | None = None
    """One of these texts."""
    grammar: str | None = None
    """EBNF whose first rule is ``root``, as in ``root ::= "yes" | "no"``."""
    disable_any_whitespace: bool = False
    """JSON in one line, without the white space that a small model likes to go on with."""

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            told = " and ".join(given) if given else "none"
            raise StructuredOutputError("", f"exactly one of {', '.join(KINDS)}, got {told}")
        for name in ("json_object", "disable_any_whitespace"):
            if not isinstance(getattr(self, name), bool):
                raise StructuredOutputError(name, "true or false")
        if self.json is not None:
            msgspec.structs.force_setattr(self, "json", check_schema(self.json))
        elif self.regex is not None:
            check_regex(self.regex)
        elif self.choice is not None:
            check_choice(self.choice)
        elif self.grammar is not None:
            check_grammar(self.grammar)

    @property
    def kind(self) -> str:
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    def spec(self) -> GrammarSpec:
        """The same as the compiler takes it."""
        if self.regex is not None:
            return GrammarSpec("regex", re.sub(r"\\(.)", _known, self.regex, flags=re.DOTALL))
        if self.grammar is not None:
            return GrammarSpec("grammar", self.grammar)
        if self.choice is not None:
            return GrammarSpec("grammar", "root ::= " + " | ".join(map(_quoted, self.choice)))
        text = '{"type": "object"}' if self.json_object else str(self.json)
        return GrammarSpec("json", text, compact=self.disable_any_whitespace)


def _known(escape: re.Match[str]) -> str:
    """An escape that xgrammar knows. Of others, which re.escape writes, it warns in the log."""
    c = escape[1]
    return f"\\u{ord(c):04X}" if c in "!#%&,:;<=>@_`~ \t\n\r\v\f" else escape[0]


def _quoted(text: str) -> str:
    """A text as a literal of the grammar."""
    escapes = {'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return (
        '"'
        + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text)
        + '"'
    )
