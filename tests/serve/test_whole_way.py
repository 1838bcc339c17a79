"""Front end and real engine core together: real scheduler and pool, given tokens, no torch."""

from __future__ import annotations

import contextlib
import threading

import pytest

from minivllm import LLM, AsyncLLM, SamplingParams
from minivllm.config import make_config
from minivllm.engine.parts import build
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.file import read_trace
from minivllm.trace.gate import Gate
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS, FakeTokenizer
from tests.serve.test_disconnect import post_and_hold

LINE = FakeTokenizer().encode("Hello 😀 world") * 10


def say_line(req_id: str, index: int) -> int:
    return LINE[index]


def parts(gate=None, next_token=say_line, **knobs):
    knobs = {"block_size": 4, "num_kv_blocks": 33, "max_model_len": 100, **knobs}
    return build(
        make_config(**knobs),
        executor_factory=lambda config: ScriptedExecutor(config, next_token),
        tokenizer=FakeTokenizer(),
        gate=gate,
    )


def start(cls, *args, **knobs):
    llm = cls.__new__(cls)
    llm._start(parts(*args, **knobs))
    return llm


def free_blocks(llm) -> int:
    return llm.client.core.kv.pool.num_free_blocks


def settle(llm: AsyncLLM) -> None:
    """Wait until the core has applied what it was told."""
    while llm.num_open or llm.client.core.has_requests():
        threading.Event().wait(0.01)


def test_many_prompts_in_a_small_pool_all_come_back_whole():
    # With preemptions on the way. PITFALLS: re-prefill after preemption re-emits tokens.
    with start(LLM, num_kv_blocks=9, max_num_seqs=4) as llm:
        params = SamplingParams(max_tokens=12, ignore_eos=True)
        outputs = llm.generate([f"p{i}" for i in range(12)], params, use_tqdm=False)
        assert [o.outputs[0].token_ids for o in outputs] == [LINE[:12]] * 12
        assert {o.outputs[0].finish_reason for o in outputs} == {"length"}
        assert free_blocks(llm) == 8


def test_a_sequence_that_outgrows_the_pool_ends_by_length():
    # PITFALLS: one sequence outgrows the pool → assertion, or the queue hangs for ever
    with start(LLM, num_kv_blocks=5) as llm:
        (output,) = llm.generate("abcd", SamplingParams(max_tokens=60), use_tqdm=False)
        assert output.outputs[0].finish_reason == "length"
        assert len(output.outputs[0].token_ids) < 60


def test_a_stop_string_ends_the_request_in_the_core_and_frees_its_blocks():
    with start(LLM) as llm:
        (output,) = llm.generate("ab", SamplingParams(max_tokens=90, stop=["ld"]), use_tqdm=False)
        assert output.outputs[0].text == "Hello 😀 wor"
        llm.generate("x", SamplingParams(max_tokens=1), use_tqdm=False)
        assert free_blocks(llm) == 32


def test_a_prefix_that_was_computed_before_is_counted_as_cached():
    with start(LLM) as llm:
        params = SamplingParams(max_tokens=2)
        first = llm.generate("abcdefghij", params, use_tqdm=False)
        second = llm.generate("abcdefghijkl", params, use_tqdm=False)
        assert (first[0].num_cached_tokens, second[0].num_cached_tokens) == (0, 8)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 9, 20])
def test_requests_that_nobody_reads_any_more_give_their_blocks_back(steps):
    # PITFALLS: abort mid-prefill, abort while waiting, abort of a request just preempted
    gate = Gate(paused=True)
    llm = start(AsyncLLM, gate, num_kv_blocks=17, max_num_seqs=3, max_num_batched_tokens=7)
    try:
        params = SamplingParams(max_tokens=40, ignore_eos=True)
        streams = [llm.stream(f"a prompt of its own {i}", params) for i in range(6)]
        if steps:
            gate.step(steps)
        while llm.client.core.scheduler.current_step < steps:
            threading.Event().wait(0.005)
        for stream in streams[:5]:
            stream.close()
        gate.resume()
        assert sum(len(o.outputs[0].token_ids) for o in streams[5]) == 40
        settle(llm)
        assert free_blocks(llm) == 16
    finally:
        llm.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_clients_that_give_up_leave_a_server_that_answers(serve, stream):
    llm = start(AsyncLLM, Gate(rate=200), num_kv_blocks=33, max_num_seqs=4)
    server = serve(llm=llm)

    def give_up(i: int) -> None:
        body = {"prompt": f"client {i}", "max_tokens": 80, "ignore_eos": True, "stream": stream}
        with post_and_hold(server, body) as connection:
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                connection.recv(1)

    threads = [threading.Thread(target=give_up, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = server.openai().completions.create(model=MODEL, prompt="still there?", max_tokens=4)
    assert answer.choices[0].text == "Hello 😀"
    settle(llm)
    assert free_blocks(llm) == 32
    assert llm.client.core.scheduler.current_step < 100 * 80 / 4  # else nobody was given up on


def test_a_paused_engine_takes_aborts():
    gate = Gate(paused=True)
    llm = start(AsyncLLM, gate)
    try:
        stream = llm.stream("ab", SamplingParams(), tick_s=0.05)
        assert next(stream) is None
        stream.close()
        settle(llm)
        assert free_blocks(llm) == 32
        gate.resume()
    finally:
        llm.close()


def test_the_trace_holds_the_engines_stream_and_the_front_ends(tmp_path):
    path = str(tmp_path / "run.jsonl")
    with start(LLM, path=path) as llm:
        llm.generate(["ab", "cd"], SamplingParams(max_tokens=4, stop=["😀 w"]), use_tqdm=False)
    trace = read_trace(path)
    told = [event.kind for event in trace.events if event.stream == "api"]
    assert told.count("req.tokenize") == 2
    assert "req.held_back" in told
    assert "req.released" in told
    arrived = {e.data.request_id for e in trace.engine_events if e.kind == "req.arrive"}
    assert {e.data.request_id for e in trace.events if e.kind == "req.tokenize"} == arrived


def test_an_engine_that_fails_in_its_loop_ends_everything(monkeypatch):
    llm = start(AsyncLLM)
    try:
        monkeypatch.setattr(llm.client.core, "step", lambda: 1 / 0)
        with pytest.raises(RuntimeError, match="engine"):
            list(llm.stream("ab", SamplingParams()))
        assert llm.is_dead
    finally:
        llm.close()


def test_eos_ends_a_request():
    with start(LLM, next_token=lambda req_id, index: 97 if index < 2 else EOS) as llm:
        (output,) = llm.generate("x", SamplingParams(max_tokens=20), use_tqdm=False)
        assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("aa", "stop")
