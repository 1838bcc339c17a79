"""Prompts that are typed into a run: they change when the others speak, never what these say."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.errors import PromptError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.scenario import load_scenario, start
from minivllm.terminal.runs import open_run
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.stepped import ScenarioSteps
from minivllm.terminal.typed import TYPED
from minivllm.terminal.verbs import Session, VerbError
from minivllm.trace.structural import structural

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


class Reader:
    """A tokenizer: each letter is a token."""

    vocab_size, eos_token_id = 50_000, 2

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def text_after(self, token_id: int, before: object) -> str:
        return chr(token_id)


def on_a_model(tokenizer: object) -> Session:
    """A scenario with a stand-in for the model, as ``--with-model`` has it."""
    scenario = load_scenario("tiny-pressure")
    run = start(scenario, executor=ScriptedExecutor, tokenizer=tokenizer, max_model_len=256)
    return Session(SteeredRun(ScenarioSteps(run, "LIVE")))


def test_where_a_model_runs_its_tokenizer_reads_what_is_typed() -> None:
    session = on_a_model(Reader())
    session.execute("submit 'hi you' 3")
    request = session.view.state.requests["r1"]
    assert request.tokens == [ord(letter) for letter in "hi you"]
    session.execute("next")
    arrived = next(e.data for e in session.history.steps[1] if e.kind == "req.arrive")
    assert arrived.eos_token_id == 2 and "ignore_eos" not in arrived.params  # it may end it
    assert arrived.params["temperature"] == 0.0
    session.close()


def test_a_model_without_a_tokenizer_reads_nothing() -> None:
    session = on_a_model(None)
    with pytest.raises(PromptError, match="no tokenizer"):
        session.execute("submit 'hi you' 3")
    session.close()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("submit a -1", "submit -1: takes one number, 1 to"),
        ("submit a 0", "submit 0: takes one number, 1 to"),
        ("submit it is -3", "submit -3: takes one number"),
        (f"submit {'a ' * 63} 9", None),
        (f"submit {'a ' * 64} 9", "64 tokens, and max_model_len is 64"),
        (f"submit {'a ' * 64}", "64 tokens, and max_model_len is 64"),
        ("submit \udcff 3", "lone surrogate"),
    ],
)
def test_what_can_never_run_is_refused(line: str, says: str | None) -> None:
    session = Session(open_run("tiny-pressure", {}))
    if says is None:
        session.execute(line)
    else:
        with pytest.raises((VerbError, PromptError), match=says):
            session.execute(line)
        assert not session.view.state.requests
    session.close()


def test_a_number_that_leaves_no_room_is_told_as_it_is_cut() -> None:
    session = Session(open_run("tiny-pressure", {}))
    reply = session.execute("submit one two three 100000")
    assert reply.lines[0].plain == "r1 is taken in, for 61 tokens: max_model_len leaves no more"
    assert reply.data == {"req": "r1", "max_tokens": 61}
    assert session.execute("submit 'it is -3'").data == {"req": "r2"}
    assert session.view.state.requests["r2"].texts == ["it", " is", " -3"]
    session.close()


TYPED_IN = ["next 3", f"submit {WORDS}", "next 2", "set max_num_seqs 3", "next 2", "abort r1"]


@pytest.mark.parametrize("at", [1, 4, 5, 7])
def test_a_fork_of_a_run_that_was_typed_into_has_its_future_and_all_that_was_typed(at: int) -> None:
    session = Session(open_run("tiny-pressure", {}))
    for line in [*TYPED_IN, f"goto {at}", "fork", "next 99"]:
        session.execute(line)
    forked = [e for events in session.history.steps.values() for e in events]
    for line in ("leave", "live", "next 99"):
        session.execute(line)
    first = [e for events in session.history.steps.values() for e in events]
    assert structural(forked) == structural(first)
    assert len(session.view.state.finished) == 6
    session.close()


def test_what_was_typed_after_the_end_comes_again_though_nobody_runs_before_it() -> None:
    session = Session(open_run("tiny-pressure", {}))
    for line in ("next 99", f"submit {WORDS}", "next 99", "goto 4", "fork num_kv_blocks 40"):
        session.execute(line)
    session.execute("next 99")  # with more blocks the others have done after 13 steps
    typed = session.view.state.requests["r6"]
    assert (typed.arrived_step, typed.finish_reason) == (18, "length")
    assert typed.texts[:3] == ["hello", " big", " world"]
    session.close()


def test_knobs_of_forks_add_up_and_stay() -> None:
    session = Session(open_run("tiny-pressure", {}))
    for line in [*TYPED_IN, "goto 6", "fork num_kv_blocks 40", "next", "fork max_num_seqs 5"]:
        session.execute(line)
    session.execute("next 99")
    config = session.view.state.config
    assert config is not None and (config["num_kv_blocks"], config["max_num_seqs"]) == (40, 5)
    assert len(session.view.state.finished) == 6
    session.close()


def test_a_fork_that_does_not_know_who_is_still_to_come_says_so() -> None:
    session = on_a_model(Reader())
    session.execute("next 3")
    last = session.execute("fork").lines[-1].plain
    assert last.endswith("leave goes back; who comes later is not known")
    session.close()
    session = Session(open_run("tiny-pressure", {}))
    session.execute("next 3")
    assert "not known" not in str(session.execute("fork").lines[-1])
    session.close()
