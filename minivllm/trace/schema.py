"""The JSON Schema of a trace's lines, made from the structs in ``events.py``.

    python -m minivllm.trace.schema      writes minivllm/trace/events.schema.json

For tools in other languages, and for the page. It is committed; a test fails when it is stale. One
line of a trace is a ``Header`` (the first) or an ``Event``; an event's ``kind`` decides what its
``data`` must be. A kind that is not known is allowed, since a later minor version may add some.
"""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from minivllm.trace import events
from minivllm.trace.answer import GRANT_WORDS

SCHEMA_PATH = Path(__file__).with_name("events.schema.json")


def json_schema() -> str:
    """The schema as it stands in the file: JSON Schema 2020-12, with the docstrings."""
    types = [events.Header, events.Event, *events.KINDS.values()]
    _, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    docs = _docs()
    for name, definition in definitions.items():
        definitions[name] = _described(definition, docs[name])
    definitions["Reason"] = {
        "title": "Reason",
        "description": docs["Reason"][""],
        "oneOf": [
            {"const": reason.value, "description": text} for reason, text in events.REASONS.items()
        ],
    }
    definitions["Event"]["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {"data": {"$ref": f"#/$defs/{cls.__name__}"}}},
        }
        for kind, cls in events.KINDS.items()
    ]
    definitions["Event"]["properties"]["data"] = {"type": "object"}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": events.SCHEMA,
        "title": "One line of a minivllm trace",
        "anyOf": [{"$ref": "#/$defs/Header"}, {"$ref": "#/$defs/Event"}],
        "$defs": definitions,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def vocabulary() -> dict[str, dict[str, str]]:
    """``kinds``, ``reasons``, ``grants`` and ``routes``, each name with one line about it.

    For whoever explains a trace: dashboard, terminal, lessons.
    """
    docs = _docs()
    kinds: dict[str, str] = {}
    for kind, cls in events.KINDS.items():
        first = " ".join(docs[cls.__name__][""].partition("\n\n")[0].split())
        kinds[kind] = first.replace("*Moves*: ", "(moves the state) ").replace("``", "`")
    return {
        "kinds": kinds,
        "reasons": {reason.value: text for reason, text in events.REASONS.items()},
        "grants": {why.value: text for why, text in GRANT_WORDS.items()},
        "routes": {why.value: text for why, text in events.ROUTE_WHYS.items()},
    }


def _described(definition: dict[str, Any], docs: dict[str, str]) -> dict[str, Any]:
    """A definition with the docstrings of its class and fields.

    Not msgspec's: how the lines of those are indented depends on Python's version.
    """
    for field, schema in definition.get("properties", {}).items():
        if field in docs:
            schema["description"] = docs[field]
    rest = {key: value for key, value in definition.items() if key not in ("title", "description")}
    described = {"description": docs[""]} if "" in docs else {}
    return {"title": definition["title"], **described, **rest}


def _docs() -> dict[str, dict[str, str]]:
    """Class → field → the string below it in the source; the class's own under ``""``."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(events)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        own = docs[node.name] = {}
        if (text := ast.get_docstring(node)) is not None:
            own[""] = text
        for field, below in pairwise(node.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    own[name] = inspect.cleandoc(text)
    return docs


if __name__ == "__main__":
    SCHEMA_PATH.write_text(json_schema(), encoding="utf-8")
    print(f"wrote {SCHEMA_PATH}")
