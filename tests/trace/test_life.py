"""The way of a request over all streams: every hop, in order, also when its first engine died."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import ConfigError
from minivllm.scenario import load_scenario, start
from minivllm.terminal.runs import RecordedRun
from minivllm.terminal.verbs import Session
from minivllm.trace import events as ev
from minivllm.trace.events import KINDS
from minivllm.trace.file import Trace, read_trace
from minivllm.trace.life import events_of, lines_of, way_of, way_of_req
from minivllm.trace.say import WORDS, say
from tests.helpers import trace_of
from tests.two_engines import TwoEngines, write_two_engines

WHOLE = [
    "http",
    "tokenise",
    "route",
    "ipc",
    "queue",
    "prefill",
    "decode",
    "ipc back",
    "detokenise",
    "sse",
    "end",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_engines(tmp_path_factory.mktemp("life") / "two.jsonl")


@pytest.fixture(scope="module")
def trace(path: Path) -> Trace:
    return read_trace(path)


def names(trace: Trace, request_id: str) -> list[str]:
    return [hop.name for hop in way_of(trace, request_id).hops]


def test_a_request_has_all_its_hops_in_order(trace: Trace) -> None:
    assert sorted(names(trace, "cmpl-a"), key=WHOLE.index) == WHOLE
    assert names(trace, "cmpl-a")[:6] == WHOLE[:6]
    way = way_of(trace, "cmpl-a")
    times = [hop.t_ns for hop in way.hops]
    assert times == sorted(times) and way.ns > (way.first_byte_ns or 0) > 0


def test_bytes_tokens_and_counts_are_those_of_the_events(trace: Trace) -> None:
    hops = {hop.name: hop for hop in way_of(trace, "cmpl-c").hops}
    assert (hops["http"].bytes, hops["ipc"].bytes, hops["sse"].bytes) == (160, 120, 1000)
    assert hops["ipc"].ns == 40_000
    assert (hops["tokenise"].tokens, hops["prefill"].tokens, hops["decode"].tokens) == (15, 3, 5)
    assert hops["prefill"].words == "12 of 15 tokens reused, 3 tokens in 1 step"
    assert (hops["detokenise"].times, hops["detokenise"].ns) == (6, 6 * 8_000)
    assert hops["end"].words == "length after 6 tokens"


def test_a_request_whose_engine_died_has_the_hops_of_both(trace: Trace) -> None:
    way = way_of(trace, "cmpl-d")
    assert [(p.stream, p.life, p.req) for p in way.places] == [
        ("engine1", 1, "r2"),
        ("engine0", 1, "r3"),
    ]
    told = names(trace, "cmpl-d")
    assert told[:6] == ["http", "tokenise", "route", "ipc", "queue", "died"]
    assert told[6:10] == ["route", "ipc", "queue", "prefill"]
    assert lines_of(way)[0].startswith("cmpl-d: r2 on engine1, then r3 on engine0 · first byte")


def test_an_engines_death_is_no_hop_of_who_had_ended_before(trace: Trace) -> None:
    server = TwoEngines()
    server.start(0)
    server.ask("early", [1, 2, 3], engine=0, max_tokens=1)
    server.step(0)
    server.kill(0, retried=0, failed=0)
    assert "died" not in names(server.trace(), "early")
    assert "died" in names(trace, "cmpl-b")


def test_waits_and_preemption_are_hops_with_their_reasons() -> None:
    trace = trace_of(start(load_scenario("tiny-pressure")).run())
    way = way_of_req(trace, "engine0", 1, "r4")
    assert [hop.name for hop in way.hops] == [
        *("queue", "prefill", "decode", "preempted", "prefill", "decode", "end"),
    ]
    assert way.hops[0].words == "r4 on engine0, waits for no_budget ×1"
    lost = "10 computed tokens lost, waits for preempted_this_step ×1 and no_free_blocks ×3"
    assert way.hops[3].words == lost
    r5 = way_of_req(trace, "engine0", 1, "r5").hops[0]
    assert r5.waited == {"no_free_blocks": 5}  # itself, and behind r4


def test_a_refused_request_ends_at_the_door() -> None:
    server = TwoEngines()
    server.api.emit(
        ev.HttpRequest, None, request_id="x", method="POST", path="/v1/completions", bytes=9
    )
    server.api.emit(ev.HttpRejected, None, request_id="x", status=400, message="too long")
    server.api.flush()
    way = way_of(server.trace(), "x")
    assert [hop.name for hop in way.hops] == ["http", "end"] and not way.places
    assert way.hops[1].words == "refused with 400: too long" and way.first_byte_ns is None
    assert "no engine had it" in lines_of(way)[0]


def test_samples_share_the_front_ends_hops() -> None:
    server = TwoEngines()
    server.start(0)
    server.api.emit(
        ev.HttpRequest, None, request_id="n", method="POST", path="/v1/completions", bytes=9
    )
    server.api.flush()
    for i in range(2):
        server.ask(f"{i}_n", [1, 2, 3], engine=0, parent="n")
    server.step(0, 6)
    whole = way_of(server.trace(), "n")
    assert [place.req for place in whole.places] == ["r1", "r2"]
    assert "n: r1 on engine0 and r2 on engine0" in lines_of(whole)[0]
    assert {hop.of for hop in whole.hops} == {"", "0_n", "1_n"}
    queued = [hop.of for hop in whole.hops if hop.name == "decode"]
    assert queued == ["0_n", "1_n"]
    second = way_of_req(server.trace(), "engine0", 1, "r2")
    assert second == way_of(server.trace(), "1_n") and [p.req for p in second.places] == ["r2"]
    assert {"http", "decode"} <= {hop.name for hop in second.hops}
    assert {hop.of for hop in second.hops} == {""}


def test_prompts_of_a_batch_share_its_door_and_its_answer() -> None:
    server = TwoEngines()
    server.start(0)
    server.start(1)
    server.api.emit(
        ev.HttpRequest, None, request_id="b", method="POST", path="/v1/completions", bytes=99
    )
    for i in range(2):
        server.send(f"b-{i}", [1, 2, 3], engine=i)
        server.step(i, 6)
    server.api.emit(ev.HttpFirstByte, None, request_id="b", status=200)
    server.api.emit(ev.HttpDone, None, request_id="b", status=200, bytes=345)
    server.api.flush()
    trace = server.trace()
    whole = way_of(trace, "b")
    assert [(p.stream, p.request_id) for p in whole.places] == [
        ("engine0", "b-0"),
        ("engine1", "b-1"),
    ]
    assert [h.of for h in whole.hops if h.name == "prefill"] == ["b-0", "b-1"]
    child = way_of(trace, "b-1")
    told = {hop.name: hop for hop in child.hops}
    assert (told["http"].bytes, told["sse"].bytes) == (99, 345) and len(child.places) == 1
    assert [h.stream for h in child.hops if h.name == "prefill"] == ["engine1"]
    # One that only looks like a prompt of a batch was asked for by itself.
    server.ask("b-7", [1, 2, 3], engine=0)
    server.step(0, 6)
    assert len(way_of(server.trace(), "b").places) == 2
    assert way_of(server.trace(), "b-7").hops[0].bytes != 99


def test_words_of_a_step_come_back_with_its_message(trace: Trace) -> None:
    server = TwoEngines()
    server.start(0)
    server.ask("a", [1, 2, 3], engine=0)
    server.ask("c", [1, 2, 3, 4], engine=0, max_tokens=2)
    server.step(0, 6)
    for request_id, messages in (("a", 6), ("c", 2)):
        way = way_of(server.trace(), request_id)
        (back,) = (hop for hop in way.hops if hop.name == "ipc back")
        assert (back.times, back.bytes, back.ns) == (messages, messages * 500, messages * 100)
        order = [hop.name for hop in way.hops]
        assert order.index("prefill") < order.index("ipc back")
    # Its first engine said nothing of it before it died: only the second one's messages count.
    (back,) = (hop for hop in way_of(trace, "cmpl-d").hops if hop.name == "ipc back")
    assert back.words == "6 messages from engine 0"


def test_nobodys_way_is_empty(trace: Trace) -> None:
    assert way_of(trace, "cmpl-z").hops == [] and events_of(trace, "r1") == []
    assert way_of_req(trace, "engine0", 1, "r77").hops == []


def test_command_tells_the_way_by_either_name(path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["trace", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert run("life", str(path), "cmpl-e") == run("life", str(path), "r1", "--engine", "1")
    assert run("life", str(path), "cmpl-b") == run(
        "life", str(path), "r1", "--engine", "1", "--life", "1"
    )
    hops = json.loads(run("life", str(path), "cmpl-d", "--json"))["hops"]
    assert hops[5]["name"] == "died"
    printed = run("cat", str(path), "--request", "cmpl-d").splitlines()
    assert printed[0].split()[:4] == ["api", "0", "42", "http.request"]
    assert {line.split()[0] for line in printed} == {"api", "engine0", "engine1"}
    for command in (["life", str(path), "cmpl-z"], ["cat", str(path), "--request", "cmpl-z"]):
        with pytest.raises(ConfigError, match="got 'cmpl-z'; allowed: a request of this trace"):
            CliRunner().invoke(app, ["trace", *command], catch_exceptions=False)


def test_request_is_found_by_what_its_client_knows(tmp_path: Path) -> None:
    server = TwoEngines(tmp_path / "t.jsonl")
    server.start(0)
    for request_id in ("chatcmpl-plain1-0a1b2c3d", "cmpl-twice-0a1b2c3d", "cmpl-twice-99999999"):
        server.ask(request_id, [1, 2, 3], engine=0)
    server.step(0, 6)
    refused = "cmpl-bad-01234567"
    server.api.emit(
        ev.HttpRequest, None, request_id=refused, method="POST", path="/v1/completions", bytes=9
    )
    server.api.emit(ev.HttpRejected, None, request_id=refused, status=400, message="n is 0")
    server.api.flush()
    server.log.close()

    def run(name: str, *command: str) -> str:
        arguments = ["trace", *(command or ("life",)), str(tmp_path / "t.jsonl")]
        arguments += ["--request", name] if command else [name]
        return CliRunner().invoke(app, arguments, catch_exceptions=False).output

    for name in ("plain1", "chatcmpl-plain1", "chatcmpl-plain1-0a1b2c3d"):
        assert run(name).startswith("chatcmpl-plain1-0a1b2c3d: r1 on engine0")
        assert run(name, "cat") == run("chatcmpl-plain1-0a1b2c3d", "cat")
    assert "refused with 400: n is 0" in run("bad")
    with pytest.raises(ConfigError, match="one of the 2 that this may be: cmpl-twice-0a1b2c3d, "):
        run("twice")
    with pytest.raises(ConfigError, match=r"a request of this trace: .*cmpl-bad-01234567"):
        run("cmpl-bat")


def test_terminals_request_shows_the_hops_outside_the_engine(path: Path) -> None:
    session = Session(RecordedRun(path, engine=0), width=100)
    session.execute("goto last")
    told = "\n".join(line.plain for line in session.execute("request r3").lines)
    assert "cmpl-d: r2 on engine1, then r3 on engine0" in told and "tokenise" in told
    alone = Session(RecordedRun(path, engine=1, life=2), width=100)
    alone.execute("goto last")
    assert "prefill" in "\n".join(line.plain for line in alone.execute("request r1").lines)


def test_every_kind_that_travels_has_words(trace: Trace) -> None:
    for event in trace.events:
        assert "{" not in say(event) or event.kind not in WORDS, event
    told = {event.kind for event in trace.events if event.stream == "api"}
    assert told - set(WORDS) <= {"run.start", "run.source"}
    new = {kind for kind in KINDS if kind.split(".")[0] in ("engine", "route", "ipc", "http")}
    assert new <= set(WORDS)
    gap = msgspec.structs.replace(
        trace.events[-1], kind="trace.gap", data=ev.TraceGap(of_stream="engine1", first=4, last=9)
    )
    assert say(gap) == "events 4 to 9 of engine1 are lost"
