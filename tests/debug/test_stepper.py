"""The debugger from Python: on a scenario, a recording, an engine; and what a notebook shows."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import minivllm.debug
from minivllm.config import make_config
from minivllm.debug import Stepper
from minivllm.engine.llm import LLM
from minivllm.engine.parts import build
from minivllm.errors import ConfigError, PromptError, ScenarioError
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import load_scenario, start
from minivllm.terminal.verbs import VerbError
from tests.conftest import RunPython
from tests.helpers import engine_view, fold_view
from tests.serve.fakes import FakeTokenizer
from tests.serving.scripted_server import executor

KNOBS: dict[str, Any] = {"num_kv_blocks": 12, "block_size": 4, "max_model_len": 64, "live": True}


@pytest.fixture
def llm() -> Iterator[LLM]:
    """A real front end and core; the model says ``a``."""
    made = LLM.__new__(LLM)
    made._start(
        build(
            make_config(**KNOBS),
            executor_factory=executor,
            tokenizer=FakeTokenizer(),
            lockstep=True,
        )
    )
    with made:
        yield made


def test_the_issues_own_example(llm: LLM) -> None:
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    with minivllm.debug.Stepper(llm) as s:
        for prompt in ("one, two, three", "two, three, four", "five, six"):
            s.submit(prompt, params)
        assert s.until(lambda e: e.kind == "req.preempt")
        assert s.event is not None and s.event.kind == "req.preempt"
        victim = s.event.req
        assert victim is not None and s.state.requests[victim].status == "preempted"
        s.next()
        assert fold_view(s.state) == engine_view(llm.client.core)  # type: ignore[attr-defined]
        assert s.do(f"why {victim}").data[0]["reason"] is not None
        s.set(max_num_seqs=1)
        s.go()
        assert s.state.running == [] and len(s.state.finished) == 3
        assert {o.outputs[0].text for o in s.outputs.values()} == {"a" * 16}
    assert llm.generate("as before", params, use_tqdm=False)[0].outputs[0].text == "a" * 16


def test_leaving_in_the_middle_lets_the_engine_finish(llm: LLM) -> None:
    with Stepper(llm) as s:
        s.submit("one", SamplingParams(max_tokens=5, ignore_eos=True))
        assert s.next_event(3) and s.next_phase()
    assert llm.client.gate.mode == "run"
    assert [output.outputs[0].text for output in s.outputs.values()] == ["aaaaa"]


def test_beside_a_generate_on_another_thread_it_only_steers(llm: LLM) -> None:
    import threading

    with Stepper(llm) as s:
        said: list[str] = []
        params = SamplingParams(max_tokens=4, ignore_eos=True)

        def generate() -> None:
            said.append(llm.generate("hello", params, use_tqdm=False)[0].outputs[0].text)

        thread = threading.Thread(target=generate)
        thread.start()
        while not s.state.requests:
            s.session.refresh()
        s.live()
        assert s.until("finish r1") and said == []
    thread.join()
    assert said == ["aaaa"]


def test_a_scenario_by_name_with_knobs_and_a_run_of_ones_own() -> None:
    with Stepper("tiny-pressure", num_kv_blocks=24) as s:
        assert not s.until("preempt") and (s.step, s.last) == (13, 13)
    run = start(load_scenario("tiny-pressure"))
    with Stepper(run) as s:
        number = s.break_at(lambda event: event.kind == "kv.evict")
        assert s.go() == number and s.step == 6
        s.next()
        assert fold_view(s.state) == engine_view(run.core)


def test_a_recording_is_browsed_and_forked(tmp_path: Path) -> None:
    with Stepper("tiny-pressure.trace.jsonl") as s:
        assert s.until("preempt") and s.before.running == ["r1", "r3", "r4"]
        s.next()
        assert s.story.startswith("r4 is preempted") and s.events[-1].kind == "step.end"
        s.back(2)
        s.fork(max_num_batched_tokens=1)
        assert s.next() and s.state.config is not None
        assert s.state.config["max_num_batched_tokens"] == 1
        s.leave()
        s.goto(8)
        assert s.story.startswith("r4 is preempted")
        with pytest.raises(VerbError, match="nothing runs behind a recording"):
            s.submit("hello")


def test_asked_back_it_says_what_to_call() -> None:
    with Stepper("tiny-pressure") as s:
        s.goto(8)
        s.back(3)
        with pytest.raises(VerbError, match=r"Call live\(\) or do\('fork'\) before"):
            s.do("continue")
        s.live()
        assert s.step == 8


def test_a_notebook_shows_the_board_and_the_answers() -> None:
    with Stepper("tiny-pressure") as s:
        s.until("preempt")
        shown = s._repr_mimebundle_()
        assert set(shown) == {"text/plain", "text/html"}
        assert "KV POOL" in shown["text/html"] and "<pre" in shown["text/html"]
        assert "KV POOL" in str(s.board(80)) and "r4" in str(s("why r4"))
        assert "0 are free" in s("why r4")._repr_mimebundle_((), ())["text/html"]
        assert "next runs on" in s.board(200, 50)._repr_mimebundle_((), ())["text/html"]
        lines = str(s.board(60, 30)).splitlines()
        assert 20 < len(lines) <= 30 and max(map(len, lines)) <= 60
        assert repr(s).startswith("Stepper(step 8 of 8: r4 gives way to r3")


def test_what_cannot_be_stepped_is_refused() -> None:
    silent = LLM.__new__(LLM)
    config = make_config(**{**KNOBS, "live": False})
    silent._start(
        build(config, executor_factory=executor, tokenizer=FakeTokenizer(), lockstep=True)
    )
    with silent, pytest.raises(ConfigError, match=r"live: got False; allowed: True \(or trace"):
        Stepper(silent)
    with pytest.raises(ScenarioError, match="not int"):
        Stepper(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="knobs for a scenario by name only"):
        Stepper(start(load_scenario("tiny-pressure")), num_kv_blocks=3)


def test_it_needs_no_torch(python_without: RunPython) -> None:
    code = (
        "import sys, minivllm\n"
        "with minivllm.debug.Stepper('tiny-pressure') as s:\n"
        "    print(s.until('preempt'), s._repr_mimebundle_().keys())\n"
        "bad = ('torch', 'transformers', 'flask', 'numpy', 'prompt_toolkit')\n"
        "print('imported', [m for m in bad if sys.modules.get(m)])\n"
    )
    done = python_without(code)
    assert "True" in done.stdout and "imported []" in done.stdout, done.stdout + done.stderr


def test_a_test_that_raises_stops_the_call_and_not_the_engine() -> None:
    with Stepper("tiny-pressure") as s:
        with pytest.raises(AttributeError, match="nope"):
            s.until(lambda event: event.nope)
        assert s.until(lambda event: event.kind == "req.preempt")
        assert s.step == 8
        for where in (5, None):
            with pytest.raises(ConfigError, match="a place in words, or a function"):
                s.until(where)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="a place in words, or a function"):
                s.break_at(where)  # type: ignore[arg-type]


GO_ON = {
    "next": lambda s, **how: s.next(9, **how),
    "event": lambda s, **how: s.next_event(200, **how),
    "phase": lambda s, **how: s.next_phase(17, **how),
    "goto": lambda s, **how: s.goto(12, **how),
    "until": lambda s, **how: s.until("finish r5", **how),
    "go": lambda s, **how: s.go(**how),
    "submit": lambda s, **how: s.submit("hello", **how),
    "abort": lambda s, **how: s.abort("r1", **how),
    "set": lambda s, **how: s.set(max_num_seqs=1, **how),
}


@pytest.mark.parametrize("verb", GO_ON)
def test_from_the_past_it_goes_on_only_as_it_is_told(verb: str) -> None:
    with Stepper("tiny-pressure") as s:
        s.goto(8)
        s.goto(4)
        with pytest.raises(VerbError, match=r"from_past='live' or 'fork', or call live"):
            GO_ON[verb](s)
        with pytest.raises(ConfigError, match="from_past: got 'past'; allowed: live or fork"):
            GO_ON[verb](s, from_past="past")
        assert (s.step, s.last) == (4, 8)
        GO_ON[verb](s, from_past="fork")
        assert s.session.run.label == "FORK" and s.step >= 4
        s.leave()
        assert (s.step, s.last) == (4, 8)
        GO_ON[verb](s, from_past="live")
        assert s.session.run.label == "NO MODEL" and s.step >= 8


def test_what_is_known_of_the_past_is_gone_through_without_a_word() -> None:
    with Stepper("tiny-pressure") as s:
        s.goto(8)
        s.goto(4)
        assert s.until("preempt") and s.next() and (s.step, s.last) == (8, 8)


def test_what_no_number_of_steps_is_is_refused_by_name() -> None:
    with Stepper("tiny-pressure") as s:
        for move in (s.next, s.next_event, s.next_phase, s.back, s.goto):
            for n in ("3", None, 1.5, True):
                with pytest.raises(ConfigError, match="allowed: a whole number"):
                    move(n)  # type: ignore[operator]
        assert s.next(0) is False and (s.step, s.last) == (0, 0)
        for prompt in (None, 3, {"a": 1}, ["a"], [1, None]):
            with pytest.raises(PromptError, match="prompt"):
                s.submit(prompt)
        assert s.last == 0 and s.state.requests == {}


def test_from_past_is_looked_at_where_nothing_is_asked_too() -> None:
    with Stepper("tiny-pressure") as s:
        for call in GO_ON.values():
            with pytest.raises(ConfigError, match="from_past: got 'zz'; allowed: live or fork"):
                call(s, from_past="zz")
        assert (s.step, s.last) == (0, 0)


def test_set_forks_for_a_knob_of_the_pool_as_the_verb_does() -> None:
    with Stepper("tiny-pressure") as s:
        s.next(3)
        s.set(num_kv_blocks=40)
        assert s.session.run.label == "FORK num_kv_blocks=40"
        assert s.go() is None and s.state.config is not None
        assert s.state.config["num_kv_blocks"] == 40
        s.leave()
        assert s.last == 3
    with Stepper("tiny-pressure.trace.jsonl") as s:
        s.goto(4)
        s.set(max_num_seqs=1)
        assert s.next() and s.state.config is not None and s.state.config["max_num_seqs"] == 1


def test_a_test_that_was_asked_is_kept_no_longer() -> None:
    kept = []
    with Stepper("tiny-pressure") as s:
        for _ in range(3):
            asked = Asked()
            kept.append(weakref.ref(asked))
            s.until(asked)
            del asked
        gc.collect()
        assert [one() for one in kept[:2]] == [None] * 2, "the gate stands at the third"
        number = s.break_at(lambda event: event.nope)
        with pytest.raises(AttributeError, match="nope"):
            s.go()
        s.do(f"clear {number}")
        s.go()


class Asked:
    def __call__(self, event: object) -> bool:
        return True


def test_a_second_one_sees_what_the_first_has_let_run(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    with Stepper(llm) as first, Stepper(llm) as second:
        first.submit("one", params)
        first.next(3)
        assert (second.step, second.last) == (3, 3)
        assert second.state.running == ["r1"] and "r1" in second.story
        first.next(2)
        assert second.events[-1].step == 5
        second.goto(2)
        first.next()
        assert (second.step, second.last) == (2, 6), "who looks at the past stays there"


def test_looking_from_another_thread_takes_nothing_from_who_lets_it_go() -> None:
    with Stepper("tiny-pressure") as s:
        done = threading.Event()
        seen: list[int] = []

        def look() -> None:
            while not done.is_set():
                seen.append(s.last)
                done.wait(0.001)

        threads = [threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        for n in range(5):
            s.submit("hello", 3)
            s.next(6)
            s.until(lambda event: event.kind == "step.end" and s.last >= 0)
            s.set(max_num_seqs=8 - n)
        done.set()
        for thread in threads:
            thread.join()
        history = s.session.history
        seqs = [event.seq for step in history.steps.values() for event in step]
        assert sorted(seqs) == list(range(1, len(seqs) + 1)) and seen
