"""What the official openai client sees."""

from __future__ import annotations

import json

import openai
import pytest

from minivllm import __version__
from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.messages import EngineCoreOutput
from minivllm.engine.token_names import named_row
from minivllm.trace.events import HttpChunk, HttpDone
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS, FakeClient, FakeTokenizer

USER = [{"role": "user", "content": "Say hello"}]


def frames(body: bytes) -> list[str]:
    """The data of each server-sent event."""
    assert body.endswith(b"\n\n")
    return [part.removeprefix("data: ") for part in body.decode().split("\n\n")[:-1]]


def echo(request):
    return request.prompt_token_ids


def test_models_lists_the_one_there_is(serve):
    client = serve().openai()
    (card,) = client.models.list().data
    assert (card.id, card.object, card.owned_by, card.max_model_len) == (
        MODEL,
        "model",
        "minivllm",
        64,
    )
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("other/model")
    assert error.value.code == "model_not_found"


def test_health_ping_and_version(serve):
    server = serve()
    assert server.raw("GET", "/health")[0] == 200
    assert server.raw("GET", "/ping")[0] == 200
    assert json.loads(server.raw("GET", "/version")[2]) == {"version": __version__}


def test_chat(serve):
    core = FakeClient()
    core.cached_tokens = 8
    answer = serve(core).openai().chat.completions.create(model=MODEL, messages=USER)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (
        0,
        "assistant",
        "Hello world",
    )
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    prompt_tokens = len(core.requests[0].prompt_token_ids)
    assert answer.usage.prompt_tokens == prompt_tokens
    assert answer.usage.completion_tokens == 3  # EOS counts
    assert answer.usage.total_tokens == prompt_tokens + 3
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


def test_completion(serve):
    answer = serve().openai().completions.create(model=MODEL, prompt="Say")
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "Hello world"
    assert answer.choices[0].finish_reason == "stop"


def test_streamed_chat_has_openais_chunks(serve):
    server = serve()
    status, headers, body = server.raw(
        "POST", "/v1/chat/completions", {"model": MODEL, "messages": USER, "stream": True}
    )
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    *chunks, done = frames(body)
    assert done == "[DONE]"
    chunks = [json.loads(chunk) for chunk in chunks]
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in chunks} == {
        (chunks[0]["id"], "chat.completion.chunk", chunks[0]["created"], MODEL)
    }
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["delta"].get("content", "") for c in choices) == "Hello world"
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert choices[-1]["delta"] == {}
    assert all("usage" not in chunk for chunk in chunks)


def test_streamed_and_plain_texts_are_equal(serve):
    client = serve(FakeClient("Hello 😀 日本 world")).openai()
    plain = client.completions.create(model=MODEL, prompt="a", max_tokens=30)
    stream = client.completions.create(model=MODEL, prompt="a", max_tokens=30, stream=True)
    assert "".join(c.choices[0].text for c in stream) == plain.choices[0].text
    plain = client.chat.completions.create(model=MODEL, messages=USER)
    stream = client.chat.completions.create(model=MODEL, messages=USER, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream)
    assert text == plain.choices[0].message.content == "Hello 😀 日本 world"


def test_include_usage_sends_a_last_chunk_without_choices(serve):
    stream = (
        serve()
        .openai()
        .chat.completions.create(
            model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    *others, last = list(stream)
    assert last.choices == []
    assert last.usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in others)


def test_continuous_usage_stats_count_up(serve):
    _, _, body = serve().raw(
        "POST",
        "/v1/completions",
        {
            "prompt": "a",
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    )
    counts = [json.loads(f)["usage"]["completion_tokens"] for f in frames(body)[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_continuous_usage_stats_without_include_usage_are_ignored(serve):
    options = {"continuous_usage_stats": True}
    request = {"prompt": "a", "stream": True, "stream_options": options}
    _, _, body = serve().raw("POST", "/v1/completions", request)
    assert all("usage" not in json.loads(frame) for frame in frames(body)[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_numbered(serve, stream):
    client = serve(FakeClient("abc")).openai()
    answer = client.chat.completions.create(model=MODEL, messages=USER, n=3, stream=stream)
    texts = dict.fromkeys(range(3), "")
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    assert texts == {0: "abc", 1: "abc", 2: "abc"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_list_of_prompts_numbers_its_choices_prompt_by_prompt(serve, stream):
    client = serve(FakeClient(echo)).openai()
    answer = client.completions.create(model=MODEL, prompt=["a", "bb"], n=2, stream=stream)
    texts = dict.fromkeys(range(4), "")
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "a", 1: "a", 2: "bb", 3: "bb"}
    if not stream:
        assert answer.usage.prompt_tokens == 3


@pytest.mark.parametrize("prompt", [[97, 98], [[97, 98]]])
def test_a_prompt_may_be_token_ids(serve, prompt):
    answer = serve(FakeClient(echo)).openai().completions.create(model=MODEL, prompt=prompt)
    assert answer.choices[0].text == "ab"


def test_the_parameters_reach_the_core(serve):
    server = serve()
    server.openai().chat.completions.create(
        model=MODEL,
        messages=USER,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_completion_tokens=9,
        max_tokens=3,
        stop=["x", "y"],
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [1, 2],
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
            "priority": 3,
            "cache_salt": "mine",
            "repetition_penalty": 1.1,
            "allowed_token_ids": [3, 4],
            "bad_words": ["ing"],
            "no_such_field": 1,
        },
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={"5": 200, "6": -1},
    )
    (request,) = server.core.requests
    params = request.sampling_params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 5, 0.1)
    assert (params.seed, params.max_tokens, params.min_tokens) == (7, 9, 2)
    assert (params.stop, params.stop_token_ids) == (["x", "y"], [1, 2])
    assert (params.presence_penalty, params.frequency_penalty) == (-1, 0.5)
    assert (params.repetition_penalty, params.logit_bias) == (1.1, {5: 100.0, 6: -1.0})
    assert (params.allowed_token_ids, params.bad_words) == ([3, 4], ["ing"])
    assert params.bad_words_token_ids == [FakeTokenizer().encode("ing")]
    assert params.ignore_eos
    assert params.include_stop_str_in_output
    assert not params.skip_special_tokens
    assert (request.priority, request.cache_salt) == (3, "mine")


def test_defaults_are_openais(serve):
    server = serve()
    client = server.openai()
    client.chat.completions.create(model=MODEL, messages=USER)
    client.completions.create(model=MODEL, prompt="ab")
    chat, completion = (r.sampling_params for r in server.core.requests)
    assert chat.max_tokens == 64 - len(server.core.requests[0].prompt_token_ids)
    assert completion.max_tokens == 16
    assert (chat.temperature, chat.top_p, chat.n) == (1.0, 1.0, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer(serve, stream):
    server = serve()
    answer = server.openai().completions.create(model=MODEL, prompt="a", stop="lo w", stream=stream)
    choices = [c.choices[0] for c in (answer if stream else [answer])]
    assert "".join(c.text for c in choices) == "Hel"
    assert (choices[-1].finish_reason, choices[-1].stop_reason) == ("stop", "lo w")
    assert server.core.wait_for(lambda: bool(server.core.aborted))


def test_finish_reason_length(serve):
    answer = serve().openai().completions.create(model=MODEL, prompt="a", max_tokens=1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(serve, stream):
    client = serve().openai()
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, logprobs=True, top_logprobs=2, max_tokens=2, stream=stream
    )
    positions = []
    for chunk in answer if stream else [answer]:
        logprobs = chunk.choices[0].logprobs
        positions += logprobs.content if logprobs else []
    assert [p.token for p in positions] == ["Hello", " world"]
    assert [p.logprob for p in positions] == [-1.5, -1.5]
    assert positions[0].bytes == list(b"Hello")
    assert [t.token for t in positions[0].top_logprobs] == ["é", "Hello"]
    assert positions[0].top_logprobs[0].bytes == list("é".encode())


@pytest.mark.parametrize("stream", [False, True])
def test_completion_logprobs(serve, stream):
    client = serve().openai()
    answer = client.completions.create(
        model=MODEL, prompt="a", logprobs=1, max_tokens=2, stream=stream
    )
    columns: dict[str, list] = {"tokens": [], "token_logprobs": [], "text_offset": [], "top": []}
    for chunk in answer if stream else [answer]:
        logprobs = chunk.choices[0].logprobs
        columns["tokens"] += logprobs.tokens
        columns["token_logprobs"] += logprobs.token_logprobs
        columns["text_offset"] += logprobs.text_offset
        columns["top"] += logprobs.top_logprobs
    assert columns == {
        "tokens": ["Hello", " world"],
        "token_logprobs": [-1.5, -1.5],
        "text_offset": [0, 5],
        "top": [{"é": -0.25, "Hello": -1.5}, {"é": -0.25, " world": -1.5}],
    }


# --- characters that are split over tokens --------------------------------------------------------

SPLIT = "é😀日a"  # é and 日本 are tokens; the emoji is two, 日 alone is three


@pytest.mark.parametrize("stream", [False, True])
def test_names_of_tokens_join_to_the_text_and_offsets_are_places_in_it(serve, stream):
    line = FakeTokenizer().encode(SPLIT)
    answer = (
        serve(FakeClient([*line, EOS], num_kv_blocks=65))
        .openai()
        .completions.create(
            model=MODEL, prompt=SPLIT, echo=True, logprobs=2, max_tokens=9, stream=stream
        )
    )
    text, columns, _ = gathered(answer, stream)
    *tokens, end = columns["tokens"]
    assert (text, end) == (SPLIT * 2, "<|im_end|>")
    assert tokens == ["é", "", "😀", "", "", "日", "a"] * 2
    *offsets, after = columns["text_offset"]
    assert offsets == [0, 1, 1, 2, 2, 2, 3, 4, 5, 5, 6, 6, 6, 7]
    assert after == len(text)
    for token, chosen, top in zip(
        tokens[1:], columns["token_logprobs"][1:], columns["top_logprobs"][1:], strict=False
    ):
        assert top[token] == chosen


def test_what_could_have_stood_there_is_named_by_what_it_would_complete():
    tokenizer = FakeTokenizer()
    half, other_half = tokenizer.encode("😀")
    before = [97, half]
    top = [(other_half, -0.1), (half, -0.2), (0x98, -0.3), (0xF0, -0.4), (97, -0.5), (260, -0.6)]
    row = named_row(tokenizer, TokenLogprobs(half, -0.2, 2, top), 6, "", before)
    names = {token_id: logprob.decoded_token for token_id, logprob in row.items()}
    assert names == {
        half: "",  # it stands there
        other_half: "😀",
        0x98: r"bytes:\x98",
        0xF0: r"bytes:\xf0",
        97: "a",
        260: "é",
    }


def test_half_a_character_at_the_end_belongs_to_the_last_token(serve):
    half, _ = FakeTokenizer().encode("😀")
    client = serve(FakeClient([97, half])).openai()
    answer = client.completions.create(model=MODEL, prompt="a", logprobs=1, max_tokens=2)
    assert answer.choices[0].text == "a\ufffd"
    assert answer.choices[0].logprobs.tokens == ["a", "\ufffd"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_tokens_have_bytes_of_their_own(serve, stream):
    line = FakeTokenizer().encode("😀")
    answer = (
        serve(FakeClient(line))
        .openai()
        .chat.completions.create(
            model=MODEL, messages=USER, logprobs=True, top_logprobs=2, max_tokens=2, stream=stream
        )
    )
    told = [
        (token.token, bytes(token.bytes))
        for chunk in (answer if stream else [answer])
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else ())
    ]
    assert told == [("", "😀".encode()[:2]), ("😀", "😀".encode()[2:])]


# --- echo -----------------------------------------------------------------------------------------


def gathered(answer, stream) -> tuple[str, dict[str, list], str]:
    """Text, logprobs' columns and finish reason of choice 0."""
    text, reason = "", ""
    columns: dict[str, list] = {
        "tokens": [],
        "token_logprobs": [],
        "text_offset": [],
        "top_logprobs": [],
    }
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            if choice.index:
                continue
            text += choice.text
            reason = choice.finish_reason or reason
            for name in columns if choice.logprobs else ():
                columns[name] += getattr(choice.logprobs, name)
    return text, columns, reason


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a日本", [97, 261]])
def test_echo_gives_the_prompt_back_in_front(serve, prompt, stream):
    client = serve().openai()
    answer = client.completions.create(model=MODEL, prompt=prompt, echo=True, stream=stream)
    text, columns, reason = gathered(answer, stream)
    assert (text, reason) == ("a日本Hello world", "stop")
    assert columns["tokens"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_of_several_choices_is_in_each(serve, stream):
    _, _, body = serve(FakeClient(echo)).raw(
        "POST",
        "/v1/completions",
        {"prompt": ["ab", "c"], "n": 2, "echo": True, "logprobs": 0, "stream": stream},
    )
    answers = [json.loads(f) for f in frames(body)[:-1]] if stream else [json.loads(body)]
    texts = dict.fromkeys(range(4), "")
    for answer in answers:
        for choice in answer["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "abab", 1: "abab", 2: "cc", 3: "cc"}


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_scores_the_prompt(serve, stream):
    client = serve().openai()
    answer = client.completions.create(
        model=MODEL, prompt="ab", echo=True, logprobs=1, max_tokens=1, stream=stream
    )
    text, columns, reason = gathered(answer, stream)
    assert (text, reason) == ("abHello", "length")
    assert columns == {
        "tokens": ["a", "b", "Hello"],
        "token_logprobs": [None, -9999.0, -1.5],
        "text_offset": [0, 1, 2],
        "top_logprobs": [None, {"é": -0.25, "b": -9999.0}, {"é": -0.25, "Hello": -1.5}],
    }


def test_what_another_sample_says_waits_for_the_prompts_logprobs(serve):
    """The first of n samples scores the prompt; another may be faster."""

    def late(request):
        return FakeTokenizer().encode("abc")

    core = FakeClient(late, paused=True)
    server = serve(core)
    kept = core._advance

    def first_sample_is_slow(name):
        request, _ = core._open[name]
        if request.sampling_params.prompt_logprobs is not None and core._step < 3:
            return EngineCoreOutput(request_id=name, new_token_ids=[])
        return kept(name)

    core._advance = first_sample_is_slow
    core.allow()
    body = {"prompt": "xy", "n": 2, "echo": True, "logprobs": 0, "stream": True}
    _, _, answer = server.raw("POST", "/v1/completions", body)
    by_index: dict[int, list] = {0: [], 1: []}
    for frame in frames(answer)[:-1]:
        for choice in json.loads(frame)["choices"]:
            by_index[choice["index"]] += [choice]
    for choices in by_index.values():
        assert "".join(c["text"] for c in choices) == "xyabc"
        assert choices[0]["logprobs"]["token_logprobs"][:2] == [None, -9999.0]
        tokens = [t for c in choices for t in c["logprobs"]["tokens"]]
        assert tokens == ["x", "y", "a", "b", "c", "<|im_end|>"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 1])
def test_echo_without_an_answer_is_the_prompt_alone(serve, logprobs, stream):
    server = serve()
    answer = server.openai().completions.create(
        model=MODEL, prompt=["ab", "c"], echo=True, max_tokens=0, logprobs=logprobs, stream=stream
    )
    text, columns, reason = gathered(answer, stream)
    assert (text, reason) == ("ab", "length")
    assert columns["tokens"] == (["a", "b"] if logprobs else [])
    assert columns["token_logprobs"] == ([None, -9999.0] if logprobs else [])
    assert len(server.core.requests) == (2 if logprobs else 0)  # nothing to score: no engine
    if not stream:
        assert [c.text for c in answer.choices] == ["ab", "c"]
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)


def test_echo_without_an_answer_is_checked_like_any_other(serve):
    server = serve()
    body = {"prompt": "a", "echo": True, "max_tokens": 0}
    for change, param in (
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [1] * 70}, "prompt"),
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        ({"model": "other"}, "model"),
    ):
        _, error = server.error("/v1/completions", body | change)
        assert error["param"] == param
    status, error = server.error("/v1/completions", body | {"echo": False})
    assert (status, error["param"]) == (400, "max_tokens")


LIKELY = {"logprob": -0.25, "rank": 1, "decoded_token": "é"}


def test_completion_prompt_logprobs_stand_in_each_choice(serve):
    body = {"model": MODEL, "prompt": ["ab", "c"], "n": 2, "prompt_logprobs": 1}
    status, _, answer = serve().raw("POST", "/v1/completions", body)
    assert status == 200
    answer = json.loads(answer)
    of_ab = [None, {"98": {"logprob": -9999.0, "rank": 7, "decoded_token": "b"}, "260": LIKELY}]
    told = [choice["prompt_logprobs"] for choice in answer["choices"]]
    assert told == [of_ab, of_ab, [None], [None]]
    assert "prompt_logprobs" not in answer


def test_chat_prompt_logprobs_stand_beside_the_choices(serve):
    body = {"model": MODEL, "messages": USER, "prompt_logprobs": 0}
    _, _, answer = serve().raw("POST", "/v1/chat/completions", body)
    answer = json.loads(answer)
    told = answer["prompt_logprobs"]
    assert len(told) == answer["usage"]["prompt_tokens"]
    assert told[0] is None and all(len(row) == 1 for row in told[1:])
    assert all("prompt_logprobs" not in choice for choice in answer["choices"])


def test_prompt_logprobs_that_were_not_asked_for_are_not_told(serve):
    body = {"model": MODEL, "messages": USER}
    _, _, answer = serve().raw("POST", "/v1/chat/completions", body)
    assert "prompt_logprobs" not in json.loads(answer)


def test_held_back_text_makes_no_empty_chunks(serve):
    _, _, body = serve(FakeClient("😀 world 😀")).raw(
        "POST", "/v1/completions", {"prompt": "a", "stream": True}
    )
    chunks = [json.loads(f)["choices"][0] for f in frames(body)[:-1]]
    assert "".join(c["text"] for c in chunks) == "😀 world 😀"
    assert all(c["text"] or c["finish_reason"] for c in chunks)


def test_x_request_id_is_echoed_and_names_the_answer(serve):
    server = serve()
    body = {"prompt": "a"}
    _, headers, answer = server.raw("POST", "/v1/completions", body, {"x-request-id": "mine.1"})
    assert headers["x-request-id"] == "mine.1"
    assert json.loads(answer)["id"] == "cmpl-mine.1"
    # Two clients may send the same: inside the engine the names differ.
    server.raw("POST", "/v1/completions", body, {"x-request-id": "mine.1"})
    assert len({r.request_id for r in server.core.requests}) == 2


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "a;b", '"'])
def test_a_strange_x_request_id_is_replaced(serve, bad):
    _, headers, _ = serve().raw("GET", "/health", headers={"x-request-id": bad})
    assert headers["x-request-id"] not in (bad, "")


def test_the_way_of_a_request_is_told(serve):
    server = serve(FakeClient("😀"))
    server.raw("POST", "/v1/completions", {"prompt": "a", "stream": True})
    kinds = server.tracer.kinds()
    assert kinds[:2] == ["http.request", "req.tokenize"]
    assert kinds[-2:] == ["http.chunk", "http.done"]
    text = [k for k in kinds if k.startswith("req.")][1:]
    assert text[:4] == ["req.detokenize", "req.held_back", "req.detokenize", "req.released"]
    assert kinds.index("http.first_byte") < kinds.index("http.chunk")
    names = {event.request_id for event in server.tracer.events}
    assert names == {server.core.requests[0].request_id}
    assert server.tracer.events[-1].status == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2},
        {"stop": ["wor!", "dog"]},  # held back at each "wo", and ends it
        {"stream_options": {"include_usage": True}},
    ],
)
def test_chunks_are_told_with_all_tokens_and_bytes_of_the_answer(serve, path, more):
    server = serve(FakeClient("a world 😀 wow dog and more"))
    prompt = {"messages": USER, "model": MODEL} if "chat" in path else {"prompt": "a"}
    usage = {"stream_options": {"include_usage": True}}
    body = prompt | {"stream": True, "max_tokens": 60} | more
    _, _, answer = server.raw("POST", path, body)
    told = [e for e in server.tracer.events if type(e) is HttpChunk]
    (done,) = (e for e in server.tracer.events if type(e) is HttpDone)
    assert done.bytes == len(answer)
    assert sum(e.bytes for e in told) == len(answer) - len(b"data: [DONE]\n\n")
    assert len(told) == len(frames(answer)) - 1
    _, _, again = server.raw("POST", path, body | usage)
    counted = json.loads(frames(again)[-2])["usage"]["completion_tokens"]
    assert sum(e.tokens for e in told) == counted


def test_special_tokens_in_the_answer_are_skipped(serve):
    server = serve(FakeClient([97, EOS - 1, 98]))
    assert server.openai().completions.create(model=MODEL, prompt="a").choices[0].text == "ab"
