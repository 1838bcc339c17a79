"""Compiling beside the engine: shared, kept, given up when it takes too long. No real grammar."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from minivllm.structured_output.compiler import MAX_GIVEN_UP, Compilation, GrammarCompiler
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.structured_output.params import GrammarSpec, StructuredOutputsParams
from tests.structured.fakes import SlowBackend


@pytest.fixture
def backend() -> Iterator[SlowBackend]:
    backend = SlowBackend()
    yield backend
    backend.let.set()


def spec(text: str) -> GrammarSpec:
    return GrammarSpec("regex", text)


def finish(compiler: GrammarCompiler, *jobs: Compilation) -> None:
    compiler.wait(lambda: all(job.done for job in jobs))


def test_equal_grammars_are_compiled_once(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend)
    first, again = compiler.submit(spec("stuck")), compiler.submit(spec("stuck"))
    assert first is again
    backend.let.set()
    finish(compiler, first)
    known = compiler.submit(spec("stuck"))
    assert known.done and known.compiled == "STUCK" and backend.compiled == ["stuck"]


def test_the_cache_drops_what_was_not_used_for_longest(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend, cache_bytes=25)
    for text in ("a", "b", "a", "c"):  # "a" is used again, so "b" goes
        finish(compiler, compiler.submit(spec(text)))
    assert backend.compiled == ["a", "b", "c"]
    assert compiler.submit(spec("a")).done
    assert not compiler.submit(spec("b")).done


def test_a_grammar_that_is_too_large_for_the_cache_serves_its_own_request(
    backend: SlowBackend,
) -> None:
    compiler = GrammarCompiler(backend, cache_bytes=5)
    job = compiler.submit(spec("a"))
    finish(compiler, job)
    assert job.compiled == "A"


def test_what_is_out_of_time_fails_and_others_go_on(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend, time_limit_s=0.05, num_workers=1)
    stuck, behind = compiler.submit(spec("stuck")), compiler.submit(spec("a"))
    finish(compiler, stuck, behind)
    assert "longer than 0.05 seconds" in str(stuck.error)
    assert behind.compiled == "A"
    again = compiler.submit(spec("stuck"))  # still at work: no second thread for it
    assert again is stuck


def test_what_ends_late_is_kept_for_the_next_who_asks(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend, time_limit_s=0.05, num_workers=1)
    finish(compiler, compiler.submit(spec("stuck")))
    backend.let.set()
    compiler.wait(lambda: compiler.submit(spec("stuck")).compiled == "STUCK")


def test_when_all_threads_are_stuck_the_next_is_refused_at_once(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend, time_limit_s=0.02, num_workers=1)
    for i in range(MAX_GIVEN_UP):
        finish(compiler, compiler.submit(spec(f"stuck {i}")))
    refused = compiler.submit(spec("a"))
    assert refused.done and "busy" in str(refused.error)
    backend.let.set()
    compiler.wait(lambda: compiler.submit(spec("a")).compiled == "A")


def test_who_stands_behind_the_last_thread_that_got_stuck_is_refused(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend, time_limit_s=0.02, num_workers=1)
    jobs = [compiler.submit(spec(f"stuck {i}")) for i in range(MAX_GIVEN_UP + 1)]
    finish(compiler, *jobs)
    assert "busy" in str(jobs[-1].error)


def test_an_error_of_the_library_does_not_tell_of_the_server(backend: SlowBackend) -> None:
    compiler = GrammarCompiler(backend)
    bad, broken = compiler.submit(spec("bad")), compiler.submit(spec("broken"))
    finish(compiler, bad, broken)
    assert "a better one" in str(bad.error)
    assert "secret" not in str(broken.error) and "log says why" in str(broken.error)


def test_the_manager_hands_each_result_out_once(backend: SlowBackend) -> None:
    manager = StructuredOutputManager(GrammarCompiler(backend), backend.matcher)
    for req_id, text in (("r1", "a"), ("r2", "bad"), ("r3", "stuck"), ("r4", "a")):
        manager.start(req_id, StructuredOutputsParams(regex=text))
    manager.cancel("r4")
    taken = {}
    while len(taken) < 2:
        manager.wait()
        taken.update(manager.take_ready())
    assert taken["r1"] == "matcher of A" and "a better one" in str(taken["r2"])
    assert manager.num_waiting == 1 and not manager.any_ready and manager.take_ready() == []
    backend.let.set()
    manager.wait()
    assert dict(manager.take_ready()) == {"r3": "matcher of STUCK"}


def test_whoever_waits_is_called_when_a_grammar_is_ready(backend: SlowBackend) -> None:
    manager, called = (
        StructuredOutputManager(GrammarCompiler(backend), backend.matcher),
        threading.Event(),
    )
    manager.on_ready(called.set)
    manager.start("r1", StructuredOutputsParams(regex="a"))
    while not manager.any_ready:
        assert called.wait(10)
        called.clear()
