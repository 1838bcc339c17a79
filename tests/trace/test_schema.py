"""The exported JSON Schema is what the structs say, and what the engine writes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

import minivllm
from minivllm.trace import events as ev
from minivllm.trace.file import decode_event
from minivllm.trace.fold import HANDLERS, apply, new_state, to_json
from minivllm.trace.schema import SCHEMA_PATH, json_schema
from tests.core.builders import HEADER, Engine
from tests.vectors.make import HERE, VECTORS

PACKAGE = Path(minivllm.__file__).parent


@pytest.fixture(scope="module")
def schema() -> Any:
    committed = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(committed)
    return jsonschema.Draft202012Validator(committed)


def test_committed_schema_is_up_to_date() -> None:
    committed = SCHEMA_PATH.read_text(encoding="utf-8")
    assert committed == json_schema(), "run: python -m minivllm.trace.schema"


@pytest.mark.parametrize("name", VECTORS)
def test_every_event_of_the_vectors_is_valid(schema: Any, name: str) -> None:
    events = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["events"]
    assert len(events) > 100
    for event in events:
        schema.validate(event)


def test_every_line_of_a_trace_is_valid(schema: Any, tmp_path: Path) -> None:
    engine = Engine()
    engine.add("a", 6, max_tokens=3)
    engine.run()
    schema.validate(json.loads(msgspec.json.encode(HEADER)))
    for line in engine.trace.log.lines("engine0", 1, engine.trace.seq):
        schema.validate(json.loads(line))


WIRE = {
    "stream": "engine0",
    "seq": 1,
    "step": 1,
    "phase": "schedule",
    "t_ns": 0,
    "src": 0,
    "req": "r1",
}


@pytest.mark.parametrize(
    ("kind", "data", "ok"),
    [
        ("kv.free", {"blocks": [1], "front": [], "back": [1]}, True),
        ("kv.free", {"blocks": [1], "front": []}, False),
        ("kv.free", {"blocks": ["1"], "front": [], "back": []}, False),
        ("sched.stop", {"reason": "no_budget", "head": "r1", "behind": []}, True),
        ("sched.stop", {"reason": "no_luck", "head": "r1", "behind": []}, False),
        ("some.thing", {"of": "a later version"}, True),
        ("some.thing", 3, False),
    ],
)
def test_kind_decides_what_the_data_must_be(schema: Any, kind: str, data: object, ok: bool) -> None:
    assert schema.is_valid({**WIRE, "kind": kind, "data": data}) is ok


def test_schema_tells_what_fields_and_reasons_mean() -> None:
    definitions = json.loads(json_schema())["$defs"]
    assert definitions["Event"]["properties"]["t_ns"]["description"] == "Since the run's start."
    assert definitions["SchedVictim"]["properties"]["need"]["description"]
    assert all(reason["description"] for reason in definitions["Reason"]["oneOf"])
    for kind, cls in ev.KINDS.items():
        assert definitions[cls.__name__]["properties"] is not None, kind


# --- the vocabulary ----------------------------------------------------------------------------


def test_each_reason_has_a_sentence_of_one_line() -> None:
    assert set(ev.REASONS) == set(ev.Reason)
    for text in ev.REASONS.values():
        assert text and "\n" not in text and len(text) < 100 and not text.endswith(".")
    assert len(set(ev.REASONS.values())) == len(ev.REASONS)


def documented(cls: type) -> str:
    return "" if cls.__doc__ == ev.Data.__doc__ else cls.__doc__ or ""


def test_each_kind_is_explained() -> None:
    assert not {kind for kind, cls in ev.KINDS.items() if not documented(cls)}


def test_kinds_that_say_they_move_the_state_are_those_that_the_fold_handles() -> None:
    moves = {kind for kind, cls in ev.KINDS.items() if "*Moves*" in documented(cls)}
    assert moves == set(HANDLERS)


def test_no_two_structs_have_one_kind() -> None:
    classes = ev.Data.__subclasses__()
    assert len(ev.KINDS) == len(classes) and all(cls.KIND for cls in classes)


def emitted() -> Iterator[tuple[str, str]]:
    """(file, struct) of every call of ``emit`` in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "emit"
                and node.args
            ):
                first = node.args[0]
                yield path.name, first.attr if isinstance(first, ast.Attribute) else first.id  # type: ignore[attr-defined]


def test_every_kind_that_is_emitted_is_in_the_schema() -> None:
    known = {cls.__name__ for cls in ev.KINDS.values()}
    told = {struct for _, struct in emitted()}
    assert len(told) > 30 and told <= known


def test_every_kind_that_moves_the_state_is_emitted() -> None:
    told = {struct for _, struct in emitted()}
    told |= {"RunStart", "RunSnapshot"}  # the recorder's own: how a stream begins
    assert {ev.KINDS[kind].__name__ for kind in HANDLERS} <= told


# --- later versions ----------------------------------------------------------------------------

UNKNOWN = json.dumps({**WIRE, "kind": "kv.dream", "data": {"of": [1, 2], "text": "x"}}).encode()


def test_reader_keeps_the_data_of_an_unknown_kind() -> None:
    assert decode_event(UNKNOWN).data == {"of": [1, 2], "text": "x"}


def test_fold_passes_over_an_unknown_kind() -> None:
    engine = Engine()
    engine.add("a", 6)
    engine.step()
    state = engine.state()
    before = to_json(state)
    apply(state, decode_event(UNKNOWN))
    assert to_json(state) == {**before, "seq": 1}


def test_reader_passes_over_unknown_fields_of_a_known_kind() -> None:
    line = {**WIRE, "kind": "req.token", "data": {"token_id": 1, "text": "a", "index": 0, "x": 1}}
    event = decode_event(json.dumps({**line, "later": True}).encode())
    assert event.data == ev.ReqToken(token_id=1, text="a", index=0)


def test_empty_state_takes_an_unknown_kind() -> None:
    state = new_state()
    apply(state, decode_event(UNKNOWN))
    assert state.requests == {}
