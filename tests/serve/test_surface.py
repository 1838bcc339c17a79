"""The routes beside the two that generate, and what every answer carries."""

from __future__ import annotations

import json
import time

import pytest

from minivllm import SamplingParams
from minivllm.api.tokenize import MAX_CHARS
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS, IM_START, FakeClient, FakeTokenizer
from tests.serve.obedient import FuzzedServer

USER = [{"role": "user", "content": "Hi"}]
VOCAB = FakeTokenizer.vocab_size


def post(server, path, body):
    status, _, answer = server.raw("POST", path, body)
    return status, json.loads(answer)


# --- tokenize, detokenize -------------------------------------------------------------------------


def test_tokenize_a_prompt(serve):
    status, answer = post(serve(), "/tokenize", {"model": MODEL, "prompt": "Hello é"})
    assert status == 200
    assert answer == {
        "count": 3,
        "max_model_len": 64,
        "tokens": FakeTokenizer().encode("Hello é"),
        "token_strs": None,
    }


def test_tokenize_tells_the_tokens_as_the_vocabulary_writes_them(serve):
    _, answer = post(serve(), "/tokenize", {"prompt": "Hello!", "return_token_strs": True})
    assert answer["token_strs"] == ["Hello", "!"]


def test_tokenize_messages_counts_what_a_chat_would(serve):
    server = serve()
    _, answer = post(server, "/tokenize", {"messages": USER})
    _, chat = post(server, "/v1/chat/completions", {"messages": USER})
    assert answer["count"] == chat["usage"]["prompt_tokens"]
    assert answer["tokens"] == server.core.requests[0].prompt_token_ids
    _, closed = post(server, "/tokenize", {"messages": USER, "add_generation_prompt": False})
    assert closed["tokens"] == answer["tokens"][: closed["count"]]
    assert (closed["tokens"][0], closed["tokens"][-1]) == (IM_START, EOS)


def test_a_text_longer_than_the_context_can_be_counted(serve):
    _, answer = post(serve(), "/tokenize", {"prompt": "a" * 1000})
    assert answer["count"] == 1000
    _, answer = post(serve(), "/tokenize", {"prompt": ""})
    assert (answer["count"], answer["tokens"]) == (0, [])


def test_detokenize_is_the_way_back(serve):
    server = serve()
    ids = [*FakeTokenizer().encode("Hello é"), EOS]
    assert post(server, "/detokenize", {"tokens": ids}) == (200, {"prompt": "Hello é<|im_end|>"})
    assert post(server, "/detokenize", {"tokens": []}) == (200, {"prompt": ""})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "a" * (MAX_CHARS + 1)}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": USER}, "messages"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
        ("/tokenize", {"messages": USER, "chat_template": "{{ x }}"}, "chat_template"),
        ("/tokenize", {"messages": USER, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": USER, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a" * MAX_CHARS}]}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {"tokens": [1] * (MAX_CHARS + 1)}, "tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:50],
)
def test_what_cannot_be_tokenised_is_named(serve, path, body, param):
    status, error = serve().error(path, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_tokenize_knows_the_models_name(serve):
    server = serve()
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        status, error = server.error(path, body | {"model": "other"})
        assert (status, error["code"]) == (404, "model_not_found")


# --- load, and what is not there ------------------------------------------------------------------


def test_load_tells_how_full_each_engine_is():
    server = FuzzedServer()
    client = server.app.test_client()
    (engine,) = client.get("/load").json["engines"]
    assert (engine["running"], engine["waiting"], engine["kv_cache_usage"]) == (0, 0, 0.0)
    server.llm.client.gate.pause()
    params = SamplingParams(max_tokens=90, ignore_eos=True)
    with server.llm.stream_many(["a" * 30, "b"], params, "r"):
        server.llm.client.gate.step(1)
        while not (engine := client.get("/load").json["engines"][0])["running"]:
            time.sleep(0.01)
        assert (engine["running"], engine["waiting"]) == (2, 0)
        assert 0.0 < engine["kv_cache_usage"] < 1.0
    server.llm.client.gate.resume()
    server.check_it_is_as_it_was()
    server.close()


def test_load_counts_what_is_open(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    assert json.loads(server.raw("GET", "/load")[2])["server_load"] == 0
    stream = server.llm.stream_many(["a", "b"], SamplingParams(max_tokens=4), "r")
    load = json.loads(server.raw("GET", "/load")[2])
    assert load["server_load"] == 2
    (engine,) = load["engines"]
    assert (engine["engine"], engine["state"], engine["open_requests"]) == (0, "ready", 2)
    stream.close()


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/audio/speech", "/invocations"]
)
def test_what_is_not_built_is_a_clean_404(serve, path):
    status, error = serve().error(path, {"input": "a"})
    assert (status, error["type"], error["param"]) == (404, "invalid_request_error", None)


def test_health_is_503_once_nobody_takes_what_the_engines_say(serve, monkeypatch):
    server = serve()

    def break_down() -> None:
        raise IndexError("deque index out of range")

    monkeypatch.setattr(server.llm.tracer, "flush", break_down)
    assert server.error("/v1/completions", {"prompt": "a"})[0] == 500
    status, _, body = server.raw("GET", "/health")
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (503, "engine_dead") and "deque" not in error["message"]
    assert server.llm.engines()[0].state == "ready"


def test_refusal_is_openais_body_whatever_fails_beside_it(serve, monkeypatch, caplog):
    server = serve()

    def break_down() -> None:
        raise IndexError("deque index out of range")

    monkeypatch.setattr(server.llm.tracer, "flush", break_down)
    status, error = server.error("/v1/completions", {"prompt": "a", "n": 0})
    assert (status, error["param"]) == (400, "n")
    assert "could not be counted or told of" in caplog.text


# --- what every answer carries --------------------------------------------------------------------


def test_an_answer_links_to_the_life_of_its_request(serve):
    server = serve(life_page="/#/run/live?request=")
    for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"prompt": "a", "n": 0}):
        _, headers, _ = server.raw("POST", "/v1/completions", body, {"x-request-id": "mine"})
        told = [e for e in server.tracer.events if e.KIND == "http.request"][-1].request_id
        assert told.startswith("cmpl-mine-")
        assert headers["Link"] == f'</#/run/live?request={told}>; rel="describedby"'
        assert headers["x-request-id"] == "mine"
    assert server.raw("GET", "/health")[1]["Link"] is None
    assert serve().raw("POST", "/v1/completions", {"prompt": "a"})[1]["Link"] is None


def test_bodies_are_openais_to_the_field(serve):
    """What stands in a body and is null, and what does not stand there."""
    _, chat = post(serve(), "/v1/chat/completions", {"messages": USER})
    assert set(chat) == {
        "id", "object", "created", "model", "choices", "usage", "system_fingerprint"
    }  # fmt: skip
    assert chat["system_fingerprint"] is None
    assert chat["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    _, text = post(serve(), "/v1/completions", {"prompt": "a"})
    assert set(text) == set(chat)
    assert text["choices"] == [
        {
            "index": 0,
            "text": "Hello world",
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert text["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 3,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
