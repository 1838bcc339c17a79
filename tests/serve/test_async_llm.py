"""Many callers at once: tasks of an asyncio loop, and plain threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from minivllm import AsyncLLM, OutputKind, SamplingParams
from minivllm.errors import DuplicateRequestError, EngineDeadError, PromptError
from minivllm.trace.events import Reason
from tests.serve.fakes import FakeClient, FakeTokenizer

PARAMS = SamplingParams(max_tokens=32)


@pytest.fixture
def client():
    return FakeClient("Hello world")


@pytest.fixture
def paused():
    return FakeClient("Hello world", paused=True)


@pytest.fixture
def start():
    """Make an AsyncLLM that is closed at the end of the test."""
    made = []

    def start(client: FakeClient) -> AsyncLLM:
        made.append(AsyncLLM.from_parts(client, FakeTokenizer()))
        return made[-1]

    yield start
    for llm in made:
        llm.close()


async def texts(llm, prompt="a", params=PARAMS, kind=OutputKind.DELTA, **kwargs):
    return [o.outputs[0].text async for o in llm.generate(prompt, params, kind=kind, **kwargs)]


def test_generate_yields_until_the_request_has_finished(start, client):
    llm = start(client)
    assert "".join(asyncio.run(texts(llm))) == "Hello world"
    assert asyncio.run(texts(llm, kind=OutputKind.CUMULATIVE))[-1] == "Hello world"
    assert asyncio.run(texts(llm, kind=OutputKind.FINAL_ONLY)) == ["Hello world"]
    assert llm.num_open == 0
    assert client.aborted == []


def test_many_tasks_share_the_engine(start):
    llm = start(FakeClient(lambda request: request.prompt_token_ids))

    async def all_of_them():
        return await asyncio.gather(*(texts(llm, f"prompt {i}") for i in range(20)))

    assert ["".join(t) for t in asyncio.run(all_of_them())] == [f"prompt {i}" for i in range(20)]


def test_a_loop_is_woken_once_a_step_however_many_requests_the_step_served(start, paused):
    llm = start(paused)
    wakes = 0

    async def count():
        nonlocal wakes
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counting(callback, *args, **kwargs):
            nonlocal wakes
            wakes += callback.__name__ == "_wake_tasks"
            return call(callback, *args, **kwargs)

        loop.call_soon_threadsafe = counting
        tasks = [asyncio.ensure_future(texts(llm)) for _ in range(5)]
        await asyncio.to_thread(paused.wait_for, lambda: len(paused.requests) == 5)
        paused.allow()
        await asyncio.gather(*tasks)

    asyncio.run(count())
    assert wakes == 3  # Hello, world, EOS


def test_closing_the_generator_aborts_the_request(start, paused):
    llm = start(paused)

    async def leave():
        outputs = llm.generate("a", PARAMS, "q")
        paused.allow(1)
        await outputs.__anext__()
        await outputs.aclose()

    asyncio.run(leave())
    assert paused.aborted == [("q", Reason.CLIENT)]
    assert llm.num_open == 0


def test_cancelling_a_task_aborts_all_samples_of_its_request(start, paused):
    llm = start(paused)

    async def cancel():
        task = asyncio.ensure_future(texts(llm, params=SamplingParams(n=2), request_id="q"))
        await asyncio.to_thread(paused.wait_for, lambda: len(paused.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert paused.aborted_ids == ["0_q", "1_q"]


def test_a_late_reader_of_a_finished_request_does_not_abort_its_names_next_owner(start, paused):
    llm = start(paused)
    first = llm.stream("a", SamplingParams(max_tokens=1), "q")
    paused.allow(1)
    assert next(first).finished
    second = llm.stream("b", PARAMS, "q")
    first.close()
    paused.allow()
    assert "".join(o.outputs[0].text for o in second) == "Hello world"
    assert paused.aborted == []


def test_engine_death_ends_every_open_request_with_an_error(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS)

    async def die():
        task = asyncio.ensure_future(texts(llm))
        await asyncio.to_thread(paused.wait_for, lambda: len(paused.requests) == 2)
        paused.die("boom")
        with pytest.raises(EngineDeadError):
            await task

    asyncio.run(die())
    with pytest.raises(EngineDeadError):
        list(stream)
    assert llm.is_dead
    with pytest.raises(EngineDeadError):
        llm.stream("a", PARAMS)
    with pytest.raises(EngineDeadError):
        llm.check_health()


def test_a_failure_in_the_output_thread_is_a_death_too_and_no_hang(start, paused, monkeypatch):
    llm = start(paused)
    stream = llm.stream("a", PARAMS)
    monkeypatch.setattr(llm.tokenizer, "token_bytes", lambda token_id: 1 / 0)
    paused.allow()
    with pytest.raises(EngineDeadError, match="ZeroDivisionError"):
        list(stream)


def test_a_name_in_use_is_refused(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS, "q")
    with pytest.raises(DuplicateRequestError):
        llm.stream("b", PARAMS, "q")
    paused.allow()
    assert "".join(o.outputs[0].text for o in stream) == "Hello world"


def test_a_bad_prompt_is_refused_before_anything_is_sent(start, client):
    llm = start(client)
    with pytest.raises(PromptError):
        llm.stream_many(["a", ""], PARAMS)
    assert client.requests == []
    assert llm.num_open == 0


def test_a_stop_string_aborts_in_the_core(start, client):
    llm = start(client)
    stream = llm.stream("a", SamplingParams(stop=["lo w"]), "q")
    assert "".join(o.outputs[0].text for o in stream) == "Hel"
    assert client.wait_for(lambda: bool(client.aborted))
    assert client.aborted == [("q", Reason.STOP_STRING)]


def test_a_waiting_stream_ticks(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS, tick_s=0.01)
    assert next(stream) is None
    paused.allow()
    assert "".join(o.outputs[0].text for o in stream if o is not None) == "Hello world"


def test_a_slow_reader_finds_the_news_merged(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS)
    paused.allow()
    assert paused.wait_for(lambda: paused.num_open == 0 and not paused._open)
    while llm.num_open:
        threading.Event().wait(0.01)
    (merged,) = stream
    assert merged.outputs[0].text == "Hello world"
    assert merged.outputs[0].token_ids == [256, 257, 268]
    assert merged.outputs[0].finish_reason == "stop"


def test_many_prompts_are_one_stream(start):
    llm = start(FakeClient(lambda request: request.prompt_token_ids))
    with llm.stream_many(["a", "bb"], PARAMS, "q", kind=OutputKind.FINAL_ONLY) as stream:
        got = {o.request_id: o.outputs[0].text for o in stream}
    assert stream.request_ids == ["q-0", "q-1"]
    assert got == {"q-0": "a", "q-1": "bb"}


def test_an_outside_abort_ends_the_stream_with_its_reason(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS, "q")
    llm.abort(["q"])
    (last,) = stream
    assert last.outputs[0].finish_reason == "abort"


def test_shutdown_ends_open_requests_and_refuses_new_ones(start, paused):
    llm = start(paused)
    stream = llm.stream("a", PARAMS, "q")
    asyncio.run(llm.shutdown())
    assert [o.outputs[0].finish_reason for o in stream] == ["abort"]
    assert paused.aborted == [("q", Reason.SHUTDOWN)]
    assert paused.down
    with pytest.raises(EngineDeadError, match="shut down"):
        llm.stream("a", PARAMS)


def test_threads_share_the_engine(start):
    llm = start(FakeClient(lambda request: request.prompt_token_ids))
    got: dict[int, str] = {}

    def read(i: int) -> None:
        got[i] = "".join(o.outputs[0].text for o in llm.stream(f"prompt {i}", PARAMS))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: f"prompt {i}" for i in range(20)}
