"""However an engine's process ends: it is noticed, named, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minivllm.engine.stall import SILENT_S
from minivllm.errors import EngineDeadError
from minivllm.trace.file import parse_trace
from tests.conftest import ROOT
from tests.engine_process.helpers import PATIENCE, Client, client, request, until
from tests.engine_process.scripted import HERE, SAYS


def is_gone(pid: int) -> bool:
    """Ended and reaped, by whoever that is for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")  # in a container nobody may reap what its parent has left
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def dead(c: Client) -> str:
    with pytest.raises(EngineDeadError) as caught:
        c.wait("never")
    return str(caught.value)


def test_kill_9_is_told_after_all_that_had_come_and_everybody_hears_of_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with client(path=str(path), rate=200) as c:
        c.mp.add_request(request("a", max_tokens=None))
        until(lambda: len(c.told("step.end")) >= 8)  # the trace may be ahead of the outputs
        os.kill(c.mp.pid, signal.SIGKILL)
        message = dead(c)
        assert message == f"engine 0 (process {c.mp.pid}) was ended by SIGKILL"
        said = c.said("a")
        assert len(said) >= 5 and said == [SAYS[i % len(SAYS)] for i in range(len(said))]
        for call in (
            lambda: c.mp.get_output(PATIENCE),
            lambda: c.mp.add_request(request("b")),
            lambda: c.mp.abort_requests(["a"]),
            lambda: c.mp.set_knobs(max_num_seqs=1),
            lambda: c.mp.gate.pause(),
            lambda: c.mp.check_ready(),
        ):
            with pytest.raises(EngineDeadError, match="SIGKILL"):
                call()
        (status,) = c.mp.engines()
        assert (status.state, status.message) == ("dead", message)
        c.mp.shutdown()
        assert c.mp.exit_code == -signal.SIGKILL and is_gone(c.mp.pid)
        assert not Path(c.mp._directory).exists()
    assert c.log is not None
    c.log.close()
    steps = [e.step for e in parse_trace(path.read_bytes(), "run").events if e.kind == "step.end"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= len(said) - 2


def test_a_call_that_waits_for_its_answer_ends_with_the_process() -> None:
    with client() as c:
        os.kill(c.mp.pid, signal.SIGSTOP)
        until(lambda: not c.mp.engines()[0].responsive)  # no heartbeat comes
        assert c.mp.engines()[0].stalled_s > SILENT_S
        process = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {c.mp.pid}"])
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            c.mp.set_knobs(max_num_seqs=3)
        process.wait()


def test_a_loop_that_fails_is_told_without_what_its_error_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with client(names={"executor": f"{HERE}:Dies"}) as c:
        c.mp.add_request(request("a"))
        assert dead(c) == "engine 0 has failed (TypeError); its log says more"
        until(lambda: c.mp.exit_code == 1)
        told = [e.kind for e in c.events() if e.kind != "run.source"]
        assert told[-2:] == ["run.error", "run.end"]
        until(lambda: any("is not iterable" in line for line in caplog.messages))
        assert all(
            line.startswith("engine 0: ")
            for r, line in zip(caplog.records, caplog.messages, strict=True)
            if r.name == "minivllm.engine.process"
        )


def test_sigterm_ends_it_in_order_but_unasked() -> None:
    with client(paused=True) as c:
        c.mp.add_request(request("a"))
        assert c.mp.gate.wait_held(PATIENCE)
        os.kill(c.mp.pid, signal.SIGTERM)
        c.wait("a")
        assert c.ended("a") == "abort"
        assert dead(c).endswith("ended with exit code 0")
        assert c.events()[-1].kind == "run.end"


def test_an_engine_that_hangs_stalls_and_is_ended_from_outside() -> None:
    with client(names={"executor": f"{HERE}:Hangs"}) as c:
        c.mp.add_request(request("a"))
        until(lambda: c.mp.engines()[0].stalled_s > SILENT_S)  # its heartbeats say so
        assert c.mp.engines()[0].responsive  # which is why they are believed
        c.mp.gate.pause()  # it still answers
        c.mp.shutdown(timeout=0.2)
        assert c.mp.exit_code in (-signal.SIGTERM, -signal.SIGKILL)
        assert not Path(c.mp._directory).exists()


PARENT = """
import os, sys, time
from tests.engine_process.helpers import Client, request, PATIENCE
c = Client(names={names}, live={live})
c.mp.wait_ready(PATIENCE)
def say():
    print(c.mp.pid, c.mp._directory, flush=True)
{then}
"""


def parent(then: str, names: Any = None, live: bool = True, **given: Any) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(names=names, live=live, then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **given,
    )
    assert process.stdout is not None
    pid, directory = process.stdout.readline().split()
    return process, int(pid), Path(directory)


def test_an_engine_ends_with_its_parent_and_takes_the_directory_along() -> None:
    process, pid, directory = parent("say(); time.sleep(600)")
    process.kill()
    process.wait()
    until(lambda: is_gone(pid) and not directory.exists())


def test_an_engine_whose_parent_died_ends_even_if_a_step_hangs() -> None:
    then = "c.mp.add_request(request('a')); c.mp.set_knobs(max_num_seqs=1); say(); time.sleep(600)"
    process, pid, directory = parent(then, names={"executor": f"{HERE}:Hangs"}, live=False)
    process.kill()
    process.wait()
    until(lambda: is_gone(pid) and not directory.exists())


def test_a_script_that_forgets_to_shut_down_leaves_nothing() -> None:
    process, pid, directory = parent("say()")
    process.wait(PATIENCE)
    until(lambda: is_gone(pid) and not directory.exists())


def test_ctrl_c_reaches_the_whole_group_and_only_the_parent_decides() -> None:
    then = """
try:
    say()
    time.sleep(600)
except KeyboardInterrupt:
    c.mp.add_request(request("a", max_tokens=3))
    c.wait("a")
    print("went on:", c.ended("a"), flush=True)
"""
    process, pid, directory = parent(then, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert out == "went on: length\n", err
    assert process.returncode == 0 and is_gone(pid) and not directory.exists()
