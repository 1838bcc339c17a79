"""Who waits for a grammar is passed over and blocks nobody; each token moves a grammar once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import EngineCoreOutput
from minivllm.structured_output.compiler import GrammarCompiler
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.events import Reason
from tests.core.builders import Engine, message
from tests.structured.fakes import AnyToken, ScriptedGrammars, SlowBackend

EOS = 7
FORM: dict[str, Any] = {"structured_outputs": StructuredOutputsParams(regex="a"), "max_tokens": 4}


def engine(outcomes: dict[str, Any], **knobs: Any) -> Engine:
    source = ScriptedGrammars(outcomes)
    made = Engine(grammars=source, **knobs)
    source.step = lambda: made.core.scheduler.current_step + 1
    return made


def running(one: Engine) -> list[str]:
    return [r.req_id for r in one.core.scheduler.running]


def test_it_is_passed_over_until_its_grammar_is_ready() -> None:
    one = engine({"r1": (3, AnyToken())})
    one.add("a", 4, **FORM)
    one.add("b", 4, max_tokens=8)
    one.step()
    assert running(one) == ["r2"] and one.core.scheduler.requests["r1"].waits_for_grammar
    one.step()
    assert [e.req for e in one.events("sched.skip")] == ["r1", "r1"]
    assert {e.data.reason for e in one.events("sched.skip")} == {Reason.WAITING_FOR_GRAMMAR}
    assert one.events("sched.stop") == []
    one.step()
    assert running(one) == ["r2", "r1"]
    one.run()
    assert len(one.said("a")) == 4
    one.assert_nothing_leaked()


def test_its_place_in_the_queue_is_kept() -> None:
    """Ready, it stands before those who came later and still wait."""
    one = engine({"r2": (3, AnyToken())}, max_num_seqs=1)
    one.add("a", 4, max_tokens=4)
    one.add("b", 4, **FORM)
    one.add("c", 4, max_tokens=2)
    one.step()
    stop = one.events("sched.stop")[0].data
    assert (stop.head, stop.behind) == ("r3", [])
    one.run()
    admitted = [e.req for e in one.events("req.admit")]
    assert admitted == ["r1", "r2", "r3"]


def test_a_refused_head_is_told_without_those_who_wait_for_grammars() -> None:
    one = engine({"r2": (9, AnyToken()), "r4": (9, AnyToken())}, max_num_seqs=1)
    one.add("a", 4, max_tokens=3)
    one.add("b", 4, **FORM)
    one.add("c", 4, max_tokens=2)
    one.add("d", 4, **FORM)
    one.add("e", 4, max_tokens=2)
    one.step()
    stop = one.events("sched.stop")[0].data
    assert (stop.head, stop.behind) == ("r3", ["r5"])
    waits = {name: r.wait for name, r in one.state().requests.items()}
    assert waits["r2"] is not None and waits["r2"].reason == "waiting_for_grammar"
    assert waits["r5"] is not None and waits["r5"].behind == "r3"
    one.run()


@pytest.mark.parametrize("ready_at", [1, 2, 5])
def test_when_it_is_ready_changes_no_token(ready_at: int) -> None:
    one = engine({"r1": (ready_at, AnyToken())})
    one.add("a", 6, **FORM)
    one.add("b", 6, max_tokens=6)
    one.run()
    plain = Engine()
    plain.add("a", 6, max_tokens=4)
    plain.add("b", 6, max_tokens=6)
    plain.run()
    assert (one.said("a"), one.said("b")) == (plain.said("a"), plain.said("b"))


def test_a_grammar_that_fails_ends_its_request_alone() -> None:
    one = engine({"r1": (2, "structured_outputs.regex must be smaller")})
    one.add("a", 4, **FORM)
    one.add("b", 4, max_tokens=4)
    one.run()
    last = one.outputs["a"][-1]
    assert (last.finish_reason, last.refused) == ("error", True)
    assert last.stop_reason == "structured_outputs.regex must be smaller"
    assert one.ended("b") == "length"
    told = [(e.data.op, e.req) for e in one.events("core.input") if e.data.op != "add"]
    assert told == [("grammar_failed", "r1")]
    one.assert_nothing_leaked()


def test_an_abort_while_it_waits_leaves_nothing() -> None:
    one = engine({"r1": (3, AnyToken())})
    one.add("a", 4, **FORM)
    one.add("b", 4, max_tokens=6)
    one.step()
    one.core.abort_request("a", Reason.CLIENT)
    one.take()
    one.run()
    assert one.ended("a") == "abort" and one.events("req.grammar_ready") == []
    one.assert_nothing_leaked()


def test_where_nothing_compiles_grammars_the_request_ends_at_once() -> None:
    one = Engine()
    one.add("a", 4, **FORM)
    one.take()
    assert one.ended("a") == "error"
    one.assert_nothing_leaked()


def test_a_preempted_request_moves_its_grammar_once_per_token() -> None:
    grammars = {f"r{i}": AnyToken() for i in (1, 2, 3)}
    one = engine({name: (1, g) for name, g in grammars.items()}, num_kv_blocks=8)
    for i in (1, 2, 3):
        one.add(f"q{i}", 6, **{**FORM, "max_tokens": 12})
    one.run()
    assert one.events("req.preempt")
    for i in (1, 2, 3):
        assert grammars[f"r{i}"].taken == one.said(f"q{i}")


def test_a_chunk_of_a_prompt_needs_no_mask() -> None:
    one = engine({"r1": (1, AnyToken())}, max_num_batched_tokens=4)
    one.add("a", 10, **{**FORM, "max_tokens": 2})
    one.run()
    assert [e.step for e in one.events("grammar.mask")] == [3, 4]
    rows = one.events("grammar.mask")[0].data.rows
    assert [(row.req, row.masked) for row in rows] == [("r1", 3)]


def test_a_token_that_the_grammar_does_not_take_ends_its_request_alone() -> None:
    one = engine({"r1": (1, AnyToken(refused=1_010_001))})  # the second token it is given
    one.add("a", 4, **FORM)
    one.add("b", 4, max_tokens=4)
    one.run()
    assert one.ended("a") == "error" and one.said("a") == [1_010_000]
    assert one.ended("b") == "length"
    one.assert_nothing_leaked()


def test_a_mask_that_cannot_be_made_ends_its_request_alone() -> None:
    class NoMask(AnyToken):
        def mask(self) -> Any:
            raise RuntimeError("no mask")

    one = engine({"r1": (1, NoMask())})
    one.add("a", 4, **FORM)
    one.add("b", 4, max_tokens=4)
    one.run()
    assert (one.ended("a"), one.said("a"), one.ended("b")) == ("error", [], "length")
    one.assert_nothing_leaked()


def test_a_request_with_a_grammar_gets_no_drafts() -> None:
    says = {"r1": [5, 6], "r2": [5, 6]}
    one = engine({"r1": (1, AnyToken())}, speculative_ngram=3)
    one.executor.next_token = lambda req, i: says[req][i % 2]
    one.add("a", 4, **{**FORM, "max_tokens": 12})
    one.add("b", 4, max_tokens=12)
    one.run()
    assert {e.req for e in one.events("spec.propose")} == {"r2"}


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 3}])
def test_the_end_of_the_grammar_ends_the_output(fields: dict[str, Any]) -> None:
    """EOS came through the mask: nothing else may follow, whatever was asked for."""
    one = engine({"r1": (1, AnyToken())})
    one.executor.next_token = lambda req, i: EOS if i == 1 else 5
    one.add("a", 4, **{**FORM, **fields, "eos_token_id": EOS})
    one.run()
    assert (one.said("a"), one.ended("a")) == ([5, EOS], "stop")


# --- the core's own loop -------------------------------------------------------------------------


def outputs_of(client: InprocClient, *request_ids: str) -> dict[str, EngineCoreOutput]:
    """The last output of each request."""
    last: dict[str, EngineCoreOutput] = {}
    while any(r not in last for r in request_ids):
        step = client.get_output(timeout=10)
        assert step is not None
        last.update({o.request_id: o for o in step.outputs if o.finish_reason})
    return last


def started(time_limit_s: float = 60.0) -> tuple[InprocClient, Engine, SlowBackend]:
    class Backend(SlowBackend):
        def matcher(self, compiled: str) -> Any:
            return AnyToken()

    backend = Backend()
    one = Engine(
        grammars=StructuredOutputManager(GrammarCompiler(backend, time_limit_s), backend.matcher)
    )
    return InprocClient(one.core), one, backend


def test_the_loop_sleeps_while_everybody_waits_for_grammars() -> None:
    client, one, backend = started()
    looked: list[None] = []
    can_step: Callable[[], bool] = one.core.can_step

    def look() -> bool:
        looked.append(None)
        return can_step()

    one.core.can_step = look  # type: ignore[method-assign]
    form = StructuredOutputsParams(regex="stuck")
    client.add_request(message("a", 4, structured_outputs=form, max_tokens=2))
    # The message, the start of the compilation: a few looks, and then none for as long as we wait.
    assert not threading.Event().wait(0.5) and len(looked) < 20
    assert one.core.scheduler.current_step == 0
    backend.let.set()
    assert outputs_of(client, "a")["a"].finish_reason == "length"
    client.shutdown()


def test_a_compilation_out_of_time_wakes_the_loop_and_ends_its_request() -> None:
    client, _, backend = started(time_limit_s=0.05)
    stuck, fine = StructuredOutputsParams(regex="stuck"), StructuredOutputsParams(regex="a")
    client.add_request(message("a", 4, structured_outputs=stuck))
    last = outputs_of(client, "a")["a"]
    assert last.finish_reason == "error" and last.refused
    assert "longer than 0.05 seconds" in str(last.stop_reason)
    client.add_request(message("b", 4, structured_outputs=fine, max_tokens=2))
    assert outputs_of(client, "b")["b"].finish_reason == "length"
    backend.let.set()
    client.shutdown()


def test_others_run_while_a_grammar_is_compiled() -> None:
    client, _, backend = started()
    stuck = StructuredOutputsParams(regex="stuck")
    client.add_request(message("a", 4, structured_outputs=stuck, max_tokens=2))
    client.add_request(message("b", 4, max_tokens=2))
    assert outputs_of(client, "b")["b"].finish_reason == "length"
    client.abort_requests(["a"])
    assert outputs_of(client, "a")["a"].finish_reason == "abort"
    backend.let.set()
    client.shutdown()


def test_a_grammar_that_cannot_be_begun_ends_its_request_and_not_the_loop() -> None:
    client, one, _ = started()

    def broken(compiled: Any) -> Any:
        raise RuntimeError("no matcher")

    one.core.grammars.source._matcher = broken  # type: ignore[union-attr]
    form = StructuredOutputsParams(regex="a")
    client.add_request(message("a", 4, structured_outputs=form))
    assert "could not be begun" in str(outputs_of(client, "a")["a"].stop_reason)
    client.add_request(message("b", 4, max_tokens=2))
    assert outputs_of(client, "b")["b"].finish_reason == "length"
    client.shutdown()


def test_stepping_by_hand_waits_for_the_only_grammar() -> None:
    client, one, backend = started()
    client.shutdown()  # the loop is not wanted here
    stuck = StructuredOutputsParams(regex="stuck")
    one.add("a", 4, structured_outputs=stuck, max_tokens=2)
    threading.Timer(0.1, backend.let.set).start()
    one.run(max_steps=3)
    assert one.ended("a") == "length"
