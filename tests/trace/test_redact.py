"""Redaction: nothing of what was said is in the trace, and everything that was decided is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from minivllm.scenario import load_scenario, start
from minivllm.trace import events as ev
from minivllm.trace.events import REASONS
from minivllm.trace.file import read_trace
from minivllm.trace.fold import fold
from minivllm.trace.invariants import violations
from minivllm.trace.redact import redacted
from tests.core.builders import HEADER, Engine
from tests.helpers import events_of, trace_of

SECRET = "attack at dawn"
IDS = [424242, 434343]


def line(data: ev.Data) -> str:
    return msgspec.json.encode(redacted(data)).decode()


def test_nothing_that_was_said_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    scenario = load_scenario("tiny-pressure")
    start(scenario, trace_path=str(path), redact=True).run().recorder.close()
    trace = read_trace(path)
    assert trace.header.redacted
    for event in trace.events:
        plain = msgspec.to_builtins(event.data)
        if event.kind == "req.arrive":
            assert set(plain["prompt_token_ids"]) == {0} and set(plain["texts"]) == {"…"}
        elif event.kind == "req.token":
            assert (plain["token_id"], plain["text"]) == (0, "…")
        elif event.kind == "sample":
            assert all((row["token_id"], row["text"]) == (0, "…") for row in plain["rows"])
    texts = {t for r in scenario.request for t in r.prompt_texts + r.output_texts if len(t) > 4}
    told = [event for event in trace.events if event.kind not in ("run.source", "run.config")]
    written = " ".join(msgspec.json.encode(event).decode() for event in told)
    assert texts and not [text for text in texts if json.dumps(text)[1:-1] in written]


def test_decisions_lengths_and_hashes_are_those_of_the_plain_run() -> None:
    plain = trace_of(start(load_scenario("tiny-pressure")).run())
    hidden = trace_of(start(load_scenario("tiny-pressure"), redact=True).run())
    kept = [e for e in plain.events if e.kind not in ("req.arrive", "req.token", "sample")]
    without = [e for e in hidden.events if e.kind not in ("req.arrive", "req.token", "sample")]
    assert [(e.kind, e.req) for e in plain.events] == [(e.kind, e.req) for e in hidden.events]
    timeless = ("exec.forward", "step.end")
    assert [e.data for e in kept if e.kind not in timeless] == [
        e.data for e in without if e.kind not in timeless
    ]
    one, other = fold(plain.events), fold(hidden.events)
    assert violations(other) == [] and one.blocks == other.blocks
    assert [len(r.tokens) for r in one.requests.values()] == [
        len(r.tokens) for r in other.requests.values()
    ]


def test_parameters_keep_numbers_and_switches_only() -> None:
    params: dict[str, Any] = {
        "temperature": 0.5,
        "ignore_eos": True,
        "seed": None,
        "stop": [SECRET],
        "stop_token_ids": IDS,
        "logit_bias": {str(IDS[0]): 3.0},
        "structured": {"schema": SECRET},
        "regex": SECRET,
    }
    arrive = ev.ReqArrive(
        request_id="a",
        prompt_token_ids=IDS,
        texts=[SECRET, SECRET],
        params=params,
        max_tokens=3,
        cache_salt=SECRET,
        eos_token_id=2,
    )
    data = json.loads(line(arrive))
    assert data["params"] == {
        "temperature": 0.5,
        "ignore_eos": True,
        "seed": None,
        "stop": ["…"],
        "stop_token_ids": [0, 0],
        "logit_bias": {"…": 1},
        "structured": {"…": 1},
        "regex": "…",
    }
    assert (data["cache_salt"], data["eos_token_id"], data["max_tokens"]) == ("…", 2, 3)


def test_front_ends_events_say_nothing_either() -> None:
    said = [
        ev.ReqHeldBack(request_id="a", text=SECRET),
        ev.ReqReleased(request_id="a", text=SECRET),
        ev.HttpRejected(request_id="a", status=400, message=f"no: {SECRET}"),
        ev.ReqError(message=f"the schema {SECRET} cannot be compiled"),
        ev.ReqFinish(
            reason="stop",
            why=None,
            stop_reason=SECRET,
            prompt_tokens=1,
            output_tokens=1,
            preemptions=0,
        ),
    ]
    assert not [data for data in said if SECRET in line(data)]


def test_candidates_and_processors_of_a_sample_say_nothing_either() -> None:
    candidate = ev.Candidate(token_id=IDS[0], text=SECRET, logprob=-0.5)
    effect = ev.ProcessorEffect(
        name="bad_words", masked=True, count=1, token_ids=IDS, texts=[SECRET, SECRET]
    )
    row = ev.SampleRow(
        req="r1",
        token_id=IDS[1],
        text=SECRET,
        logprob=-0.5,
        rank=1,
        before=[candidate],
        after=[candidate],
        processors=[effect],
    )
    told = line(ev.Sample(rows=[row]))
    assert SECRET not in told and not [i for i in IDS if str(i) in told]
    assert '"logprob":-0.5' in told and '"count":1' in told


def test_code_and_decisions_are_left_as_they_are() -> None:
    source = ev.RunSource(src=1, file="f", line=1, function="g", first_line=1, text="def g(): ...")
    stop = ev.SchedStop(reason=ev.Reason.NO_BUDGET, head="r1", behind=["r2"])
    assert redacted(source) is source and redacted(stop) is stop
    assert REASONS[stop.reason]


def test_every_kind_can_be_redacted() -> None:
    """Whatever is emitted today goes through without an error, and only contents change."""
    engine = Engine()
    engine.add("a", 6, max_tokens=3)
    engine.run()
    for event in events_of(engine.trace):
        assert type(redacted(event.data)) is type(event.data)
    assert HEADER.redacted is False
