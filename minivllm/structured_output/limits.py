"""What is refused before anything is compiled: too large, too deep, or not what would come out.

A compiler is a program that strangers feed (vLLM's advisories CVE-2025-48942 to -48944 and
xgrammar's CVE-2025-57809 are of this kind), so sizes are bounded first. And xgrammar passes over
some keywords of JSON Schema with a warning in its log: the text would then not keep to the schema,
and nobody would know. Such a schema is refused here by name.

Counterpart in vLLM: ``has_xgrammar_unsupported_json_features`` in
``vllm/v1/structured_output/backend_xgrammar.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from minivllm.errors import StructuredOutputError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_REGEX_CHARACTERS = 4096
MAX_CHOICES = 1024
MAX_CHOICE_BYTES = 64 * 1024
MAX_NESTING = 64
"""Levels of objects and lists in a schema, of parentheses in a regex or a grammar."""

_IGNORED_BY_XGRAMMAR = (
    "multipleOf", "uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then",
    "else", "dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef",
    "$recursiveRef", "extends", "disallow", "divisibleBy", "contentEncoding", "contentMediaType",
    "contentSchema",
)  # fmt: skip
_NEEDS_TYPE = (
    "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems", "required", "minProperties", "maxProperties",
)  # fmt: skip
_TELLS_TYPE = ("type", "properties", "items", "prefixItems", "additionalProperties")
_COMBINES = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const")
_STRUCTURE = (*_NEEDS_TYPE, *_COMBINES, "properties", "items", "prefixItems",
              "additionalProperties", "patternProperties", "propertyNames")  # fmt: skip

_NOT_TOGETHER = (
    ("pattern", "minLength"), ("pattern", "maxLength"), ("format", "pattern"),
    ("format", "minLength"), ("format", "maxLength"), ("propertyNames", "properties"),
    ("propertyNames", "patternProperties"), ("patternProperties", "properties"),
)  # fmt: skip
"""Pairs of which xgrammar keeps to one, or to either but not to both."""

_NEEDS_ESCAPE = re.compile(r'"|\\[\\nrtfvbxuc0]')
"""xgrammar would write such a character into the string as it is, and end it there."""

_PIECE = re.compile(r"\\(?P<escaped>.)|\[(?P<inside>(?:\\.|[^\]\\])*)\]", re.DOTALL)
"""What stands for itself or for one character in a regex: an escape, a class."""
_UNKNOWN_ESCAPES = frozenset("ghijlmoqyzACEFGHIJKLMNOQRTUVXYZ")
"""xgrammar takes these for the letter, with a warning in the log; those below, in a class only."""
_UNKNOWN_IN_CLASS = _UNKNOWN_ESCAPES | frozenset("123456789kpBP")

_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS_IN_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA = ("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems")


def check_schema(given: Any) -> str:
    """A JSON Schema, as an object or as its text; returns the text."""
    if not isinstance(given, (dict, str)):
        raise StructuredOutputError("json", "a JSON Schema: an object, or its text")
    if isinstance(given, str):
        text = given
        _check_size("json", text, MAX_SCHEMA_BYTES)
        # Before Python's parser sees it, which is recursive.
        if nesting(given, "{[", "}]", quote='"', classes=False) > MAX_NESTING:
            raise _too_deep()
        try:
            schema = json.loads(given)
        except ValueError as error:
            raise StructuredOutputError("json", f"a JSON Schema; it is no JSON: {error}") from None
        if not isinstance(schema, dict):
            raise StructuredOutputError("json", "a JSON Schema that is an object")
    else:
        try:
            text = json.dumps(given, ensure_ascii=False, allow_nan=False)
            schema = json.loads(text)  # without what is only Python's: tuples, keys of other types
        except RecursionError:
            raise _too_deep() from None
        except (TypeError, ValueError) as error:
            raise StructuredOutputError("json", f"a JSON Schema: {error}") from None
        _check_size("json", text)
        _check_depth(schema)
    for where, part in _schemas(schema, "#"):
        problem = _problem(part)
        if problem is not None:
            allowed = f"a schema that can be kept to; at {where}: {problem}"
            raise StructuredOutputError("json", allowed)
    return text


def check_regex(given: Any) -> None:
    if not isinstance(given, str) or not given:
        raise StructuredOutputError("regex", "a regular expression, not empty")
    if len(given) > MAX_REGEX_CHARACTERS:
        allowed = f"at most {MAX_REGEX_CHARACTERS} characters long, got {len(given)}"
        raise StructuredOutputError("regex", allowed)
    _check_size("regex", given)
    if nesting(given, "(", ")") > MAX_NESTING:
        raise StructuredOutputError("regex", f"nested at most {MAX_NESTING} parentheses deep")
    problem = _regex_problem(given)
    if problem is not None:
        raise StructuredOutputError("regex", f"a regular expression that can be kept to: {problem}")


def _regex_problem(regex: str) -> str | None:
    """What of this regex xgrammar would pass over."""
    rest = _PIECE.sub("x", regex)
    if "^" in rest[1:] or "$" in rest[:-1]:
        return "^ may only begin it and $ only end it; the whole text must match in any case"
    for piece in _PIECE.finditer(regex):
        inside = piece["inside"]
        escapes = [piece["escaped"]] if inside is None else re.findall(r"\\(.)", inside, re.DOTALL)
        unknown = _UNKNOWN_ESCAPES if inside is None else _UNKNOWN_IN_CLASS
        wrong = next((c for c in escapes if c in unknown), None)
        if wrong is not None:
            return f"\\{wrong} is not supported here"
    return None


def check_choice(given: Any) -> None:
    if not isinstance(given, list) or not 0 < len(given) <= MAX_CHOICES:
        raise StructuredOutputError("choice", f"a list of 1 to {MAX_CHOICES} texts")
    if not all(isinstance(text, str) and text for text in given):
        raise StructuredOutputError("choice", "a list of texts that are not empty")
    _check_size("choice", "".join(given), MAX_CHOICE_BYTES)


def check_grammar(given: Any) -> None:
    if not isinstance(given, str) or not given.strip():
        raise StructuredOutputError("grammar", "an EBNF grammar, not empty")
    _check_size("grammar", given, MAX_GRAMMAR_BYTES)
    if nesting(given, "(", ")", quote='"') > MAX_NESTING:
        raise StructuredOutputError("grammar", f"nested at most {MAX_NESTING} parentheses deep")


def nesting(text: str, opening: str, closing: str, quote: str = "", classes: bool = True) -> int:
    """How deep brackets stand in one another, apart from those that are escaped, quoted, or in a
    ``[class]``."""
    depth = deepest = 0
    inside = ""  # the character that ends what we are in
    escaped = False
    for c in text:
        if escaped or c == "\\":
            escaped = not escaped
        elif inside:
            inside = "" if c == inside else inside
        elif quote and c == quote:
            inside = quote
        elif classes and c == "[":
            inside = "]"
        elif c in opening:
            depth += 1
            deepest = max(deepest, depth)
        elif c in closing:
            depth -= 1
    return deepest


def _too_deep() -> StructuredOutputError:
    return StructuredOutputError("json", f"nested at most {MAX_NESTING} levels deep")


def _check_size(name: str, text: str, most: int = MAX_SCHEMA_BYTES) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StructuredOutputError(name, "text without lone surrogates") from None
    if size > most:
        raise StructuredOutputError(name, f"at most {most} bytes long, got {size}")


def _check_depth(given: Any) -> None:
    """Level by level, so that no depth can exhaust Python's own stack."""
    level, depth = [given], 0
    while level := [
        child
        for parent in level
        if isinstance(parent, (dict, list))
        for child in (parent.values() if isinstance(parent, dict) else parent)
    ]:
        depth += 1
        if depth > MAX_NESTING:
            raise _too_deep()


def _schemas(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and all in it, each with its JSON pointer. What only looks like one, in ``enum``
    or ``default``, is data."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    names = schema.get("propertyNames")
    if isinstance(names, dict):
        yield from _schemas({"type": "string", **names}, f"{where}/propertyNames")
    for key in _SCHEMA:
        yield from _schemas(schema.get(key), f"{where}/{key}")
    for key in _SCHEMAS_BY_NAME:
        named = schema.get(key)
        for name, part in named.items() if isinstance(named, dict) else ():
            yield from _schemas(part, f"{where}/{key}/{name}")
    for key in _SCHEMAS_IN_LIST:
        parts = schema.get(key)
        for i, part in enumerate(parts) if isinstance(parts, list) else ():
            yield from _schemas(part, f"{where}/{key}/{i}")


def _problem(schema: dict[str, Any]) -> str | None:
    """What of this schema the grammar would not keep to."""
    for key in _IGNORED_BY_XGRAMMAR:
        if schema.get(key, False) is not False:
            return f"{key} is not supported"
    ref = schema.get("$ref")
    if ref is not None and not (isinstance(ref, str) and (ref == "#" or ref.startswith("#/"))):
        return "$ref must point into this schema (#/…)"
    empty = next((key for key in ("type", *_COMBINES[1:4]) if schema.get(key) == []), None)
    if empty is not None:
        return f"{empty} must not be an empty list"
    if len(schema.get("allOf") or ()) > 1:
        return "allOf with more than one schema is not supported"
    combines = next((key for key in _COMBINES if key in schema), None)
    if combines is not None:
        with_it = (combines, "const", "type") if combines in ("enum", "const") else (combines,)
        beside = [key for key in (*_STRUCTURE, "type") if key in schema and key not in with_it]
        if beside:
            return f"{beside[0]} beside {combines} is not supported: put it inside"
        misfit = _misfit(schema)
        if misfit is not None:
            return misfit
    for pair in _NOT_TOGETHER:
        if all(key in schema for key in pair):
            return f"{pair[0]} together with {pair[1]} is not supported"
    if len(schema.get("patternProperties") or ()) > 1:
        return "patternProperties with more than one pattern is not supported: both may match"
    for pattern in (schema.get("pattern"), *(schema.get("patternProperties") or ())):
        if isinstance(pattern, str) and _NEEDS_ESCAPE.search(pattern):
            return f"the pattern {pattern[:40]!r} names a character that JSON must escape"
        problem = _regex_problem(pattern) if isinstance(pattern, str) else None
        if problem is not None:
            return f"the pattern {str(pattern)[:40]!r}: {problem}"
    limit = next((key for key in _NEEDS_TYPE if key in schema), None)
    if limit is not None and not any(key in schema for key in _TELLS_TYPE):
        return f"{limit} without type has no effect; give the type"
    required, properties = schema.get("required"), schema.get("properties")
    if isinstance(required, list):
        known = properties if isinstance(properties, dict) else {}
        unknown = [name for name in required if isinstance(name, str) and name not in known]
        if unknown:
            return f"{unknown[0]!r} is required and is not among the properties"
    return None


def _misfit(schema: dict[str, Any]) -> str | None:
    """A value that ``enum`` or ``const`` names and what stands beside it forbids."""
    enum, types = schema.get("enum"), schema.get("type")
    if "const" in schema and isinstance(enum, list):
        if not any(_same(schema["const"], value) for value in enum):
            return "const is not in enum"
        enum = None
    allowed = [types] if isinstance(types, str) else types
    if not isinstance(allowed, list):
        return None
    for value in enum or ([schema["const"]] if "const" in schema else []):
        if not any(_is_of(value, name) for name in allowed):
            told = json.dumps(value, ensure_ascii=False)
            return f"the value {told[:40]} is not of type {' or '.join(map(str, allowed))[:80]}"
    return None


def _same(a: Any, b: Any) -> bool:
    """As JSON: to Python true is 1."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _is_of(value: Any, name: Any) -> bool:
    """Is this value of the type that JSON Schema calls ``name``?"""
    if isinstance(value, bool) or value is None:
        return bool(name == ("null" if value is None else "boolean"))
    if isinstance(value, (int, float)):
        return name == "number" or (name == "integer" and value == value // 1)
    kinds = {"string": str, "array": list, "object": dict}
    return isinstance(value, kinds.get(str(name), ()))
