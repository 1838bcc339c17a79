"""A request that takes too long is ended, and says so in the way its client listens."""

from __future__ import annotations

import json

import pytest

from minivllm.api.limits import Limits, OpenRequests
from minivllm.trace.events import Reason
from tests.serve.conftest import MODEL
from tests.serve.fakes import FakeClient
from tests.serve.test_disconnect import post_and_hold

BODY = {"prompt": "a", "max_tokens": 60, "ignore_eos": True}


@pytest.fixture
def limits() -> Limits:
    return Limits(OpenRequests(limit=1), request_timeout_s=0.2)


def test_a_plain_request_gets_504_and_is_not_tried_again(serve, limits):
    core = FakeClient(paused=True)
    server = serve(core, limits=limits)
    status, headers, body = server.raw("POST", "/v1/completions", BODY)
    error = json.loads(body)["error"]
    assert (status, error["code"], headers["x-should-retry"]) == (504, "request_timeout", "false")
    assert [why for _, why in core.aborted] == [Reason.TIMEOUT]
    assert server.llm.num_open == 0
    counted = server.raw("GET", "/metrics")[2].decode()
    assert f'minivllm:request_timeouts_total{{model_name="{MODEL}"}} 1.0' in counted
    assert f'minivllm:client_disconnects_total{{model_name="{MODEL}"}} 0.0' in counted


def test_a_stream_that_has_begun_gets_an_error_frame_and_done(serve, limits):
    core = FakeClient(paused=True)
    server = serve(core, limits=limits)
    core.allow(3)
    _, _, body = server.raw("POST", "/v1/completions", BODY | {"stream": True})
    *_, frame, done, nothing = body.decode().split("\n\n")
    assert json.loads(frame.removeprefix("data: "))["error"]["code"] == "request_timeout"
    assert (done, nothing) == ("data: [DONE]", "")
    assert [why for _, why in core.aborted] == [Reason.TIMEOUT]


def test_while_the_gate_holds_no_time_passes(serve, limits):
    core = FakeClient(paused=True)
    server = serve(core, limits=limits)
    limits.clock.on_gate("pause", 0.0)
    connection = post_and_hold(server, BODY)
    assert not core.wait_for(lambda: bool(core.aborted), seconds=0.6)
    limits.clock.on_gate("run", 0.0)
    assert core.wait_for(lambda: bool(core.aborted))
    connection.close()


def test_each_way_out_makes_room_for_the_next(serve, limits):
    server = serve(FakeClient(), limits=limits)
    bad = [b"{", {"prompt": "a", "n": 0}, {"prompt": "a" * 1000}, {"prompt": "a", "model": "no"}]
    for body in [*bad, *bad, BODY, BODY | {"stream": True}, BODY]:
        status, _, _ = server.raw("POST", "/v1/completions", body)
        assert status in (200, 400, 404)
        assert limits.open_requests.wait_for_none(10.0)  # a moment after its last byte
    server.raw("PUT", "/v1/completions", BODY)
    assert limits.open_requests.count == 0


def test_a_probe_that_is_told_no_is_no_rejected_request(serve, limits):
    server = serve(limits=limits)
    limits.open_requests.refuse_new()
    assert server.raw("GET", "/ready")[0] == 503
    name = f'vllm:admission_rejections_total{{model_name="{MODEL}",reason="shutdown"}}'
    assert name not in server.raw("GET", "/metrics")[2].decode()
    assert server.raw("POST", "/v1/completions", BODY)[0] == 503
    assert f"{name} 1.0" in server.raw("GET", "/metrics")[2].decode()


def test_who_is_sent_away_and_who_goes_away_is_counted(serve, limits):
    core = FakeClient(paused=True)
    limits.request_timeout_s = None
    server = serve(core, limits=limits)
    connection = post_and_hold(server, BODY)
    assert core.wait_for(lambda: len(core.requests) == 1)
    status, error = server.error("/v1/completions", BODY)
    assert (status, error["code"]) == (503, "too_many_requests_open")
    server.llm.queue.limit = 1
    limits.open_requests.limit = 2
    status, error = server.error("/v1/completions", BODY)
    assert (status, error["code"]) == (503, "queue_full")
    connection.close()
    assert core.wait_for(lambda: bool(core.aborted))
    limits.open_requests.wait_for_none(10.0)
    counted = server.raw("GET", "/metrics")[2].decode()
    name = f'vllm:admission_rejections_total{{model_name="{MODEL}",reason='
    for reason in ("max_streams", "max_num_queued_reqs"):
        assert f'{name}"{reason}"}} 1.0' in counted
    assert f'minivllm:client_disconnects_total{{model_name="{MODEL}"}} 1.0' in counted
