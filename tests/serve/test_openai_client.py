"""The official ``openai`` package against the whole surface: what its users write works here."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.serve.conftest import MODEL
from tests.serve.fakes import FakeClient

USER = [{"role": "user", "content": "Say hello"}]


def test_the_stream_helper_builds_the_whole_answer(serve):
    client = serve().openai()
    with client.chat.completions.stream(
        model=MODEL,
        messages=USER,
        n=2,
        logprobs=True,
        top_logprobs=2,
        stream_options={"include_usage": True},
    ) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_completion()
    assert kinds[0] == "chunk" and "content.delta" in kinds and kinds[-1] == "chunk"
    assert [choice.message.content for choice in whole.choices] == ["Hello world"] * 2
    assert [choice.finish_reason for choice in whole.choices] == ["stop"] * 2
    assert [len(choice.logprobs.content) for choice in whole.choices] == [3, 3]
    assert whole.usage.completion_tokens == 6
    assert whole.system_fingerprint is None


def test_chunks_come_in_openais_order(serve):
    chunks: list[ChatCompletionChunk] = list(
        serve()
        .openai()
        .chat.completions.create(
            model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    first, *middle, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert all(c.choices[0].delta.role is None for c in middle)
    assert all(c.choices[0].finish_reason is None for c in [first, *middle])
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert usage.choices == [] and usage.usage.prompt_tokens_details.cached_tokens == 0


def test_what_a_reply_carries_can_be_read_with_it(serve):
    raw = serve(life_page="/#life=").openai().chat.completions.with_raw_response
    reply = raw.create(model=MODEL, messages=USER, extra_headers={"x-request-id": "mine"})
    assert reply.request_id == "mine"
    assert reply.parse().id == "chatcmpl-mine"
    assert "/#life=chatcmpl-mine-" in reply.headers["link"]


def test_content_in_parts_and_fields_of_no_consequence(serve):
    server = serve()
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello"}]
    client = server.openai()
    for content in (parts, "Say hello"):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": content}],
            user="me",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            parallel_tool_calls=False,
            reasoning_effort="low",
            tool_choice="none",
        )
    one, other = (request.prompt_token_ids for request in server.core.requests)
    assert one == other


def test_a_form_asked_for_openais_way_reaches_the_core(serve):
    server = serve()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    server.openai().chat.completions.create(
        model=MODEL,
        messages=USER,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    form = server.core.requests[0].sampling_params.structured_outputs
    assert json.loads(form.json) == schema


def test_completions_in_a_batch_with_echo_and_logprobs(serve):
    answer = (
        serve()
        .openai()
        .completions.create(
            model=MODEL, prompt=["ab", "c"], n=2, echo=True, logprobs=2, max_tokens=2, best_of=5
        )
    )
    assert [c.text for c in answer.choices] == ["abHello world"] * 2 + ["cHello world"] * 2
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.top_logprobs[0] is None
        assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
    assert answer.usage.prompt_tokens == 3 and answer.usage.completion_tokens == 8


@pytest.mark.parametrize(
    ("error", "ask"),
    [
        (openai.BadRequestError, {"temperature": 9}),
        (openai.BadRequestError, {"messages": []}),
        (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (openai.NotFoundError, {"model": "gpt-5"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_exceptions_that_its_users_catch(serve, error, ask, stream):
    client = serve().openai()
    with pytest.raises(error) as raised:
        client.chat.completions.create(**{"model": MODEL, "messages": USER, "stream": stream} | ask)
    assert raised.value.type == "invalid_request_error"
    assert raised.value.param == next(iter(ask))
    assert raised.value.request_id


def test_other_refusals(serve):
    server = serve(api_keys=["secret"], max_body_bytes=1000)
    with pytest.raises(openai.AuthenticationError):
        server.openai("wrong").completions.create(model=MODEL, prompt="a")
    client = server.openai("secret")
    with pytest.raises(openai.APIStatusError) as error:
        client.completions.create(model=MODEL, prompt="a" * 2000)
    assert error.value.status_code == 413
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="a")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="a")


def test_an_engine_that_dies_is_an_error_in_either_way(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    core.allow(2)
    stream = server.openai().completions.create(
        model=MODEL, prompt="a", stream=True, max_tokens=60, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    core.die("secret")
    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert error.value.code == "engine_dead"
    with pytest.raises(openai.InternalServerError):
        server.openai().completions.create(model=MODEL, prompt="a", stream=True)


def test_many_at_once_from_the_async_client(serve):
    server = serve(FakeClient(lambda request: request.prompt_token_ids))

    async def ask(client: openai.AsyncOpenAI, text: str) -> str:
        stream = await client.completions.create(model=MODEL, prompt=text, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_of_them() -> list[str]:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, f"text {i}") for i in range(20)))

    assert asyncio.run(all_of_them()) == [f"text {i}" for i in range(20)]
    assert server.llm.num_open == 0


def test_a_client_that_gives_up_waiting_is_aborted(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    client = server.openai().with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model=MODEL, prompt="a")
    assert core.wait_for(lambda: bool(core.aborted))
