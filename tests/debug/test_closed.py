"""A debugger that was closed says so at once, and what it has seen can still be read."""

from __future__ import annotations

import threading

import pytest

from minivllm.debug import Stepper
from minivllm.engine.llm import LLM
from minivllm.errors import EngineDeadError
from minivllm.sampling_params import SamplingParams
from tests.debug.test_stepper import llm

__all__ = ["llm"]

LETS_IT_GO = {
    "next": lambda s: s.next(),
    "event": lambda s: s.next_event(),
    "phase": lambda s: s.next_phase(),
    "until": lambda s: s.until("finish r5"),
    "until a test": lambda s: s.until(lambda event: event.kind == "run.end"),
    "go": lambda s: s.go(),
    "goto": lambda s: s.goto(9),
    "submit": lambda s: s.submit("a"),
    "abort": lambda s: s.abort("r1"),
    "set": lambda s: s.set(max_num_seqs=3),
    "fork": lambda s: s.fork(),
    "a verb": lambda s: s.do("next 2"),
}


@pytest.mark.parametrize("verb", LETS_IT_GO)
def test_closed_it_lets_nothing_go(verb: str) -> None:
    s = Stepper("tiny-pressure")
    s.next(3)
    s.close()
    failed: list[BaseException] = []

    def call() -> None:
        try:
            LETS_IT_GO[verb](s)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it waits for an engine that is gone"
    assert [type(error) for error in failed] == [EngineDeadError]
    assert "it was closed" in str(failed[0])
    assert s.step == 3 and s.do("why r1").data and (s.goto(1), s.step)[1] == 1
    s.close()  # twice does no harm


def test_closed_in_a_fork_too() -> None:
    s = Stepper("tiny-pressure")
    s.next(3)
    s.fork()
    s.close()
    with pytest.raises(EngineDeadError, match="it was closed"):
        s.next()
    s.leave()
    with pytest.raises(EngineDeadError, match="it was closed"):
        s.next()


def test_closed_while_it_waits() -> None:
    s = Stepper("tiny-pressure", max_model_len=64)
    failed: list[BaseException] = []
    entered = threading.Event()

    def hold(event: object) -> bool:
        entered.set()
        s.close_soon.wait(10)  # type: ignore[attr-defined]
        return False

    s.close_soon = threading.Event()  # type: ignore[attr-defined]

    def call() -> None:
        try:
            s.until(hold)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert entered.wait(10)
    closer = threading.Thread(target=s.close, daemon=True)
    closer.start()
    s.close_soon.set()  # type: ignore[attr-defined]
    thread.join(10)
    closer.join(10)
    assert not thread.is_alive() and not closer.is_alive()


def test_an_llm_goes_on_and_its_closed_stepper_does_not(llm: LLM) -> None:
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    with Stepper(llm) as s:
        s.submit("one", params)
        s.next()
    with pytest.raises(EngineDeadError, match="it was closed"):
        s.next()
    with pytest.raises(EngineDeadError, match="it was closed"):
        s.submit("two", params)
    assert llm.client.gate.mode == "run"
    assert llm.generate("two", params, use_tqdm=False)[0].outputs[0].text == "aaaa"
