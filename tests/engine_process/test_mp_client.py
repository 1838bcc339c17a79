"""MPClient: what a caller may ask of an engine in another process, and what comes back."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from minivllm.engine import calls
from minivllm.engine.mp_client import MPClient
from minivllm.errors import (
    ConfigError,
    DuplicateRequestError,
    EngineDeadError,
    EngineUnavailableError,
)
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.events import Reason
from minivllm.trace.structural import structural
from tests.engine_process.helpers import PATIENCE, Client, client, request, until
from tests.engine_process.scripted import HERE, SAYS


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


@pytest.fixture
def c(shared: Client) -> Iterator[Client]:
    """One process for all tests that leave it as it was."""
    shared.got.clear()
    yield shared
    shared.mp.gate.resume()
    shared.mp.gate.rate = 0
    until(lambda: shared.mp.engines()[0].open_requests == 0)
    # The trace has come, too; of a process that has just started, its very first event may be late.
    until(lambda: bool(told := shared.events()) and told[-1].kind == "run.idle")
    while shared.mp.get_output(timeout=0.01) is not None:
        pass


def test_outputs_come_step_by_step(c: Client) -> None:
    c.mp.add_request(request("a", max_tokens=3))
    c.wait("a")
    assert c.said("a") == SAYS[:3] and c.ended("a") == "length"
    assert [len(o.new_token_ids) for o in c.got] == [1, 1, 1]
    assert c.mp.get_output(timeout=0.01) is None


def test_id_of_an_open_request_is_refused_at_once_and_free_after_its_end(c: Client) -> None:
    c.mp.gate.pause()
    c.mp.add_request(request("a", max_tokens=1))
    with pytest.raises(DuplicateRequestError, match="'a' is already in use"):
        c.mp.add_request(request("a"))
    assert c.mp.engines()[0].open_requests == 1
    c.mp.gate.resume()
    c.wait("a")
    c.mp.add_request(request("a", max_tokens=1))


def test_a_request_that_is_aborted_before_the_core_saw_it_never_enters(c: Client) -> None:
    """Held in the middle of a step the core takes nothing in, so both words wait for it."""
    arrived = len(c.told("req.arrive"))
    c.mp.gate.pause()
    c.mp.add_request(request("a", max_tokens=2))
    assert c.mp.gate.wait_held(PATIENCE)
    c.mp.gate.next_phase()
    until(lambda: (held := c.mp.gate.held) is not None and held.at == "phase")
    c.mp.add_request(request("b"))
    c.mp.abort_requests(["b", "unknown"])
    c.mp.add_request(request("c", max_tokens=1))
    c.mp.set_knobs(max_num_seqs=8)  # answered once all before it is in the core's queue
    c.mp.gate.resume()
    c.wait("a", "b", "c")
    assert [c.ended(name) for name in "abc"] == ["length", "abort", "length"]
    until(lambda: len(c.told("req.arrive")) == arrived + 2)  # the trace has a way of its own
    (drop,) = c.told("core.drop")
    assert (drop.data.request_id, drop.data.why) == ("b", Reason.CLIENT)
    assert b"core.drop" not in b"".join(structural(c.events()))


def test_abort_ends_a_running_request_with_its_reason(c: Client) -> None:
    c.mp.gate.rate = 50
    c.mp.add_request(request("a", max_tokens=None))
    until(lambda: c.take(0.5) or c.said("a"))
    c.mp.abort_requests(["a"], Reason.STOP_STRING)
    c.wait("a")
    assert c.ended("a") == "abort"
    until(lambda: [e for e in c.told("req.abort") if e.data.why == Reason.STOP_STRING])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs: got 0; allowed: a whole number, 1 or more"),
        ({"block_size": 8}, "block_size: got 8; allowed: between two steps"),
        ({"max_num_seqs": object()}, "knobs: got"),
        ({"watermark": 2**70}, "knobs: got"),
    ],
)
def test_bad_knobs_come_back_to_the_caller(c: Client, knobs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        c.mp.set_knobs(**knobs)
    assert caught.value.field in ("knobs", *knobs) and caught.value.allowed


def test_facts_follow_the_knobs(c: Client) -> None:
    assert c.mp.facts()["num_kv_blocks"] == 17
    c.mp.set_knobs(max_num_seqs=5)
    until(lambda: c.mp.facts()["max_num_seqs"] == 5)
    c.mp.set_knobs(max_num_seqs=8)
    until(lambda: c.mp.facts()["max_num_seqs"] == 8)


@pytest.mark.parametrize("step", [0, -1, "now", 2**80])
def test_a_step_that_cannot_be_armed_is_refused(c: Client, step: Any) -> None:
    c.mp.add_request(request("a", max_tokens=1))
    c.wait("a")
    with pytest.raises(ConfigError, match="arm"):
        c.mp.arm(step)


def test_reset_of_the_prefix_cache_reaches_the_core(c: Client) -> None:
    c.mp.add_request(request("a", 9, max_tokens=1))
    c.wait("a")
    c.mp.reset_prefix_cache()
    until(lambda: c.told("kv.reset"))


def test_the_gate_is_steered_and_says_where_the_engine_stands(c: Client) -> None:
    gate, heard = c.mp.gate, []
    gate.on_change(lambda mode, rate: heard.append((mode, rate)))
    gate.pause()
    assert (gate.mode, heard[-1]) == ("pause", ("pause", 0.0))
    c.mp.add_request(request("a", max_tokens=None))
    held = gate.wait_held(PATIENCE)
    assert held is not None and held.at == "step"
    gate.next_event()
    held = gate.wait_held(PATIENCE)
    assert held is not None and held.at == "event" and held.event is not None
    until(lambda: c.events()[-1] == held.event)  # the viewers get all that was told so far
    gate.until("sched.grant")
    held = gate.wait_held(PATIENCE)
    assert held is not None and held.event is not None and held.event.kind == "sched.grant"
    assert heard[-2:] == [("run", 0.0), ("pause", 0.0)]
    gate.next_phase(2)
    held = gate.wait_held(PATIENCE)
    assert held is not None and (held.at, held.phase) == ("phase", "update")
    gate.rate = 100
    assert gate.rate == 100.0 and heard[-1] == ("pause", 100.0)
    assert gate.wait_held(0.01) is not None
    gate.resume()
    assert gate.held is None and gate.wait_held(0.01) is None
    c.mp.abort_requests(["a"])


@pytest.mark.parametrize(
    ("steer", "message"),
    [
        (lambda gate: gate.until("nonsense"), "until: got 'nonsense'"),
        (lambda gate: gate.step(0), "gate step: got 0"),
        (lambda gate: setattr(gate, "rate", -1), "gate rate: got -1"),
        (lambda gate: gate._verb("open sesame"), "gate: got 'open sesame'"),
        (lambda gate: gate.step("two"), "not supported between instances of 'str' and 'int'"),
    ],
)
def test_what_the_gate_does_not_take_comes_back_to_the_caller(
    c: Client, steer: Any, message: str
) -> None:
    with pytest.raises((ConfigError, TypeError), match=message):
        steer(c.mp.gate)


def test_a_request_that_cannot_be_taken_in_ends_alone(c: Client) -> None:
    bad = msgspec.structs.replace(request("b"), priority="high")
    also = msgspec.structs.replace(request("d"), prompt_token_ids=[1.5])
    for one in (request("a", max_tokens=2), bad, also, request("c", max_tokens=2)):
        c.mp.add_request(one)
    c.wait(*"abdc")
    assert [c.ended(name) for name in "abdc"] == ["length", "error", "error", "length"]
    (error,) = [o.stop_reason for o in c.got if o.request_id == "b"]
    assert "could not be taken in" in str(error)


def test_bytes_that_are_no_message_disturb_nobody(
    c: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever gets into the directory may write; nothing is executed, and nothing taken away."""
    frames = [
        [b""],
        [b"\x00" * 1000],
        [b"\xc1garbage", b"and more"],
        [msgspec.msgpack.encode({"type": "system", "request": "ls"})],
        [msgspec.msgpack.encode({"type": "add", "request": {"request_id": "stranger"}})],
        [b"\x81" * 100_000],
        [b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."],  # a pickle
    ]
    kinds = {"input": zmq.PUSH, "output": zmq.PUSH, "trace": zmq.PUB, "replay": zmq.DEALER}
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for name, kind in kinds.items():
        socket = context.socket(kind)
        socket.connect(f"ipc://{c.mp._directory}/{name}")
        for message in frames:
            socket.send_multipart(message)
        socket.close(linger=5000)
    context.term()  # once all of it has been handed over
    for name in ("x", "y", "z"):
        c.mp.add_request(request(name, max_tokens=3))
    c.wait("x", "y", "z")
    assert c.said("z") == SAYS[:3]
    until(lambda: c.told("req.finish")[-1].req == c.told("req.arrive")[-1].req)
    until(lambda: sum("cannot be read" in line for line in caplog.messages) >= 10)
    assert "stranger" not in {e.data.request_id for e in c.told("req.arrive")}


def test_the_directory_is_this_users_alone(c: Client) -> None:
    info = os.stat(c.mp._directory)
    assert stat.S_IMODE(info.st_mode) == 0o700 and info.st_uid == os.geteuid()


def test_heartbeats_tell_of_a_loop_that_moves_and_of_one_that_is_held(c: Client) -> None:
    c.mp.gate.pause()
    c.mp.add_request(request("a", max_tokens=2))
    assert c.mp.gate.wait_held(PATIENCE)
    first = c.mp._beat_at
    until(lambda: c.mp._beat_at > first)
    (status,) = c.mp.engines()
    assert (status.engine, status.epoch, status.state, status.pid) == (0, 1, "ready", c.mp.pid)
    assert status.stalled_s == 0.0


def test_what_its_caller_has_given_up_is_not_done_later(
    c: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that was frozen finds it in its socket."""
    monkeypatch.setattr(calls, "ANSWER_S", 0.05)
    monkeypatch.setattr(calls, "ON_THE_WAY_S", 0.05)
    refused = (
        lambda: c.mp.set_knobs(max_num_seqs=3),
        lambda: c.mp.gate.pause(),
        lambda: c.mp.arm("next"),
    )

    def told() -> tuple[object, ...]:
        events = len(c.told("run.knob")), len(c.told("trace.arm"))
        return c.mp.gate.mode, c.mp.facts()["max_num_seqs"], events

    before = told()
    os.kill(c.mp.pid, signal.SIGSTOP)
    try:
        for call in refused:
            with pytest.raises(EngineUnavailableError, match=r"has not answered for 0.05 s"):
                call()
    finally:
        os.kill(c.mp.pid, signal.SIGCONT)
    monkeypatch.setattr(calls, "ANSWER_S", PATIENCE)
    c.mp.gate.rate = 0.0  # it takes them in order: the others have come before
    c.mp.add_request(request("a", max_tokens=1))
    c.wait("a")
    assert told() == before


def test_a_slow_reader_finds_everything_and_holds_up_nobody(c: Client) -> None:
    names = [f"s{i}" for i in range(6)]
    for name in names:
        c.mp.add_request(request(name, max_tokens=8))
    until(lambda: c.mp.engines()[0].open_requests == 0)  # the engine is through; nothing was read
    c.wait(*names)
    assert all(c.said(name) == SAYS[:8] for name in names)


def test_many_threads_may_call_at_once(c: Client) -> None:
    def some(thread: int) -> None:
        for i in range(5):
            c.mp.add_request(request(f"{thread}-{i}", max_tokens=1))
            c.mp.gate.rate = 0
            c.mp.set_knobs(max_num_seqs=8)

    threads = [threading.Thread(target=some, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    c.wait(*(f"{n}-{i}" for n in range(4) for i in range(5)))


def test_a_grammar_is_compiled_and_kept_to_there() -> None:
    with client(names={"executor": f"{HERE}:masked"}) as c:
        form = StructuredOutputsParams(regex="(ab|cd)x?")
        given = request("a", max_tokens=9, structured_outputs=form)
        c.mp.add_request(msgspec.structs.replace(given, eos_token_id=268))
        c.wait("a")
        assert bytes(c.said("a")[:2]) == b"ab" and c.ended("a") == "stop"
        until(lambda: c.told("req.grammar_ready"))


def test_after_shutdown_nothing_is_left_and_nothing_is_taken() -> None:
    with client(paused=True, check=True) as c:
        c.mp.add_request(request("a"))
        c.mp.shutdown()
        c.mp.shutdown()  # a second time does nothing
        assert c.mp.exit_code == 0 and not Path(c.mp._directory).exists()
        c.wait("a")  # whoever waits for an output gets the end
        assert c.ended("a") == "abort"
        assert [e.kind for e in c.events()][-1] == "run.end"
        calls = (
            lambda: c.mp.add_request(request("b")),
            lambda: c.mp.get_output(0.01),
            lambda: c.mp.set_knobs(max_num_seqs=1),
            lambda: c.mp.gate.resume(),
            lambda: c.mp.check_ready(),
        )
        for call in calls:
            with pytest.raises(EngineDeadError, match="was shut down"):
                call()
        assert c.mp.engines()[0].state == "dead"


def test_a_run_that_is_not_traced_has_no_channel() -> None:
    with client(live=False) as c:
        c.mp.add_request(request("a", max_tokens=2))
        c.wait("a")
        assert sorted(os.listdir(c.mp._directory)) == ["input", "output"]
        with pytest.raises(ConfigError, match="no event is told without a trace"):
            c.mp.gate.until("finish")


def test_settings_that_cannot_cross_over_are_refused_before_anything_starts() -> None:
    from minivllm.config import make_config
    from minivllm.core.scheduler import Scheduler

    with pytest.raises(ConfigError, match="a class cannot cross over"):
        MPClient(make_config(scheduler_cls=Scheduler))
    with pytest.raises(ConfigError, match="gate rate"):
        MPClient(make_config(), rate=-3)
