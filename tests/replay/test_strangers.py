"""A request that somebody sends to a fork moves the names of all that arrive after it: each of
these is the recorded one all the same, to its last word."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.replay.fork import ForkRun
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.file import Trace
from tests.core.builders import HEADER, Engine, message
from tests.helpers import events_of
from tests.replay.builders import end_of, of_kind, output_of, recording_of, served_run
from tests.structured.fakes import AnyToken, ScriptedGrammars


def with_grammars() -> Trace:
    """r2 waits until step 6 for its grammar; r3's cannot be made."""
    source = ScriptedGrammars({"r2": (6, AnyToken()), "r3": (3, "this is no regex")})
    engine = Engine(grammars=source)
    source.step = lambda: engine.core.scheduler.current_step + 1
    form = StructuredOutputsParams(regex="a")
    engine.add("a", 4, max_tokens=9)
    engine.add("b", 5, max_tokens=4, structured_outputs=form)
    engine.add("c", 6, max_tokens=4, structured_outputs=form)
    engine.run()
    return Trace(HEADER, events_of(engine.trace))


@pytest.mark.parametrize("which", ["served", "grammars"])
def test_whoever_comes_after_a_stranger_is_who_it_was(which: str, tmp_path: Path) -> None:
    trace = served_run(tmp_path / "run.jsonl") if which == "served" else with_grammars()
    run = ForkRun(recording_of(trace), {}, 1, goes_on=True)
    run.core.add_request(message("stranger", 3, max_tokens=2))
    for _ in range(2_000):
        run.step()
    assert run.done and not run.core.has_requests()
    made = Trace(HEADER, events_of(run.recorder))
    names = {e.data.request_id: str(e.req) for e in of_kind(made, "req.arrive")}
    assert names.pop("stranger") == "r1"
    for arrived in of_kind(trace, "req.arrive"):
        was, now = str(arrived.req), names[arrived.data.request_id]
        assert now != was
        if "abort" not in end_of(trace, was):  # its caller went away at a step, not at a token
            assert end_of(made, now) == end_of(trace, was)
            assert output_of(made, now) == output_of(trace, was)
