"""Prompts that are typed into a run: they change when the others speak, never what these say."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.terminal.runs import open_run
from minivllm.terminal.stepped import TYPED
from minivllm.terminal.verbs import Session

WORDS = "'hello big world' 3"


def said(session: Session) -> dict[str, tuple[str, list[int]]]:
    """Request id → how it ended and what it said, of all that nobody typed."""
    return {
        r.request_id: (str(r.finish_reason), r.tokens[r.num_prompt_tokens :])
        for r in session.history.state().requests.values()
        if not r.request_id.startswith(TYPED)
    }


def alone(target: str) -> dict[str, tuple[str, list[int]]]:
    session = Session(open_run(target, {}))
    session.execute("continue")
    try:
        return said(session)
    finally:
        session.close()


@pytest.mark.parametrize("line", ["submit", "next 3; submit", "next 3; back 2; fork; submit"])
@pytest.mark.parametrize("target", ["tiny-pressure", "shared-prefix"])
def test_the_scenarios_own_requests_say_what_they_say_without_it(target: str, line: str) -> None:
    session = Session(open_run(target, {}))
    for verb in line.split("; "):
        session.execute(f"{verb} {WORDS}" if verb == "submit" else verb)
    session.execute("continue")
    assert said(session) == alone(target)
    assert "r6" in session.history.state().requests
    session.close()


@pytest.mark.parametrize("at", [0, 1, 3, 7])
def test_in_a_fork_of_a_recording_the_recorded_ones_say_what_was_recorded(at: int) -> None:
    session = Session(open_run("tiny-pressure.trace.jsonl", {}))
    recorded = said(session)
    session.execute(f"goto {at}")
    session.execute("fork")
    session.execute(f"submit {WORDS}")
    session.execute("next 99")
    assert said(session) == recorded
    session.execute("goto 5")
    session.execute("fork max_num_seqs 3")  # of a fork, with what was typed there
    session.execute(f"submit {WORDS}")
    session.execute("next 99")
    assert said(session) == recorded and len(session.view.state.finished) == 7
    session.close()


def test_what_a_typed_one_says_is_nobody_elses() -> None:
    session = Session(open_run("tiny-pressure", {"enable_prefix_caching": True}))
    session.execute(f"submit {WORDS}")
    session.execute("next 99")
    requests = session.view.state.requests
    theirs = {token for name, r in requests.items() for token in r.tokens if name != "r1"}
    assert not theirs & set(requests["r1"].tokens)
    session.close()


def test_an_abort_in_a_fork_meets_the_one_that_was_aborted_in_the_recording(tmp_path: Path) -> None:
    session = Session(open_run("tiny-pressure", {}))
    for line in ("next 6", "abort r4", "next 99", f"export {tmp_path}/run.jsonl"):
        session.execute(line)
    session.close()
    session = Session(open_run(f"{tmp_path}/run.jsonl", {}))
    for line in ("goto 2", "fork", f"submit {WORDS}", "next 99"):
        session.execute(line)
    ends = {r.request_id: r.finish_reason for r in session.view.state.requests.values()}
    assert [name for name, end in ends.items() if end == "abort"] == ["tiny-pressure-4"]
    session.close()
