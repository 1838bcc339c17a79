"""The engines seen from outside: /admin, /health, /load, and ``minivllm admin`` in a process."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from minivllm.api.admin import create_admin_blueprint
from minivllm.api.server import create_app, make_http_server
from minivllm.cli.main import main
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.retry import DIED
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from tests.data_parallel.lives import Fleet, eventually
from tests.serve.fakes import FakeClient, FakeTokenizer
from tests.serve.test_stats import QUEUED, SCHEDULED, Heard
from viz.access import Access


@dataclass
class Site:
    """A server around two scripted engines, and what one asks it."""

    fleet: Fleet
    llm: AsyncLLM
    port: int

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        status, body = response.status, json.loads(response.read())
        connection.close()
        return status, body

    def open(self, name: str) -> None:
        self.llm.stream({"prompt_token_ids": [1, 2, 3]}, SamplingParams(max_tokens=4), name)


@pytest.fixture
def start() -> Iterator[Any]:
    running = []

    def start(api_keys: tuple[str, ...] = (), n: int = 2) -> Site:
        fleet = Fleet(n)
        llm = AsyncLLM.from_parts(fleet.client, FakeTokenizer())
        app = create_app(llm, served_model_name="fake", api_keys=api_keys)
        app.register_blueprint(create_admin_blueprint(llm, Access().may_steer))
        server = make_http_server(app, "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append((server, llm))
        return Site(fleet, llm, server.server_port)

    yield start
    for server, llm in running:
        server.shutdown()
        llm.close()
        server.server_close()


def test_engines_are_listed_and_steered(start: Any) -> None:
    site = start()
    status, body = site.ask("GET", "/admin/engines")
    assert status == 200
    assert [(e["engine"], e["state"], e["epoch"]) for e in body["engines"]] == [
        (0, "ready", 1),
        (1, "ready", 1),
    ]
    site.open("a")
    assert site.ask("POST", "/admin/engines/0/drain")[1]["state"] == "draining"
    assert site.ask("POST", "/admin/engines/0/resume") == (
        202,
        {**body["engines"][0], "open_requests": 1},
    )
    assert site.ask("POST", "/admin/engines/1/restart")[0] == 202
    eventually(lambda: site.ask("GET", "/admin/engines")[1]["engines"][1]["epoch"] == 2)


def test_an_engine_that_is_not_there_is_a_404_and_a_get_changes_nothing(start: Any) -> None:
    site = start()
    status, body = site.ask("POST", "/admin/engines/7/drain")
    assert (status, body["error"]["code"]) == (404, "no_such_engine")
    assert site.ask("POST", "/admin/engines/x/drain")[0] == 404
    assert site.ask("GET", "/admin/engines/0/drain")[0] == 405


def test_without_keys_only_this_machine_steers(start: Any) -> None:
    site = start()
    for headers in ({"Host": "evil.example"}, {"X-Forwarded-For": "192.0.2.1"}):
        for method, path in (("POST", "/admin/engines/0/drain"), ("GET", "/admin/engines")):
            status, body = site.ask(method, path, **headers)
            assert (status, body["error"]["code"]) == (403, "not_the_driver")
    assert site.fleet.states() == ["ready", "ready"]


def test_with_keys_the_key_is_needed_too(start: Any) -> None:
    site = start(api_keys=("secret",))
    assert site.ask("POST", "/admin/engines/0/drain")[0] == 401
    assert site.ask("POST", "/admin/engines/0/drain", Authorization="Bearer secret")[0] == 202


def test_an_engine_on_a_thread_cannot_be_replaced() -> None:
    llm = AsyncLLM.from_parts(FakeClient(), FakeTokenizer())
    app = create_app(llm, served_model_name="fake")
    app.register_blueprint(create_admin_blueprint(llm, lambda request: True))
    with app.test_client() as client:
        assert client.get("/admin/engines").status_code == 200
        assert client.post("/admin/engines/0/drain").status_code == 400
    llm.close()


# --- what a router in front of several servers reads ---------------------------------------------


def test_health_stays_200_while_one_engine_works_and_says_whether_requests_are_taken(
    start: Any,
) -> None:
    site = start()
    site.open("a")
    assert site.ask("GET", "/health")[1]["ready"] is True
    site.fleet.client.drain(0)
    site.fleet.client.drain(1)
    status, body = site.ask("GET", "/health")
    assert (status, body["ready"]) == (200, False)
    assert [e["state"] for e in body["engines"]] == ["draining", "drained"]
    site.fleet[0].say("a", 1, finish="stop")
    eventually(lambda: site.ask("GET", "/health")[0] == 503)
    assert site.ask("GET", "/health")[1]["error"]["code"] == "no_engine"  # nobody is dead


def test_a_silent_engine_is_not_ready_and_load_says_for_how_long(start: Any) -> None:
    site = start()
    for index in (0, 1):
        site.fleet[index].stalled_s, site.fleet[index].responsive = 4.0, False
        eventually(lambda index=index: site.ask("GET", "/load")[1]["ready_engines"] == 1 - index)
        engine = site.ask("GET", "/load")[1]["engines"][index]
        assert (engine["state"], engine["stalled_s"], engine["responsive"]) == ("ready", 4.0, False)
        status, body = site.ask("GET", "/ready")
        assert status == (200 if index == 0 else 503)
    assert body["error"]["code"] == "no_engine"
    status, body = site.ask("GET", "/health")  # they may be back at any moment
    assert (status, body["ready"]) == (200, False)


def test_with_no_engine_ready_a_request_is_told_to_come_again(start: Any) -> None:
    site = start(n=1)
    site.fleet.client.drain(0)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    body = json.dumps({"prompt": "Hello", "model": "fake"})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    connection.close()


def test_load_tells_each_engines_work_and_forgets_what_a_dead_one_did(start: Any) -> None:
    site = start()
    site.open("a")
    site.fleet[0].say("a", 1)
    eventually(lambda: site.ask("GET", "/load")[1]["engines"][0]["running"] == 1)
    load = site.ask("GET", "/load")[1]
    assert (load["server_load"], load["ready_engines"]) == (1, 2)
    assert load["engines"][0] == {
        "engine": 0,
        "state": "ready",
        "epoch": 1,
        "open_requests": 1,
        "stalled_s": 0.0,
        "responsive": True,
        "running": 1,
        "waiting": 0,
        "kv_cache_usage": 0.5,
    }
    site.fleet[0].die()
    eventually(lambda: site.ask("GET", "/load")[1]["engines"][0]["epoch"] == 2)
    eventually(lambda: site.ask("GET", "/load")[1]["server_load"] == 0)
    assert site.ask("GET", "/load")[1]["engines"][0]["kv_cache_usage"] == 0


# --- the whole front end over engines that die ----------------------------------------------------


def test_a_callers_stream_ends_with_the_engines_error_and_the_next_one_is_served(
    start: Any,
) -> None:
    site = start()
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    broken = site.llm.stream({"prompt_token_ids": [1, 2]}, params, "broken")
    site.fleet[0].say("broken", 65)
    assert next(broken).outputs[0].text == "A"
    site.fleet[0].die("killed by signal 9")
    last = next(broken)
    assert (last.finished, last.outputs[0].finish_reason) == (True, "error")
    assert last.outputs[0].engine_died and last.outputs[0].stop_reason == DIED
    assert not site.llm.is_dead
    whole = site.llm.stream({"prompt_token_ids": [1, 2]}, params, "whole")
    site.fleet[1].say("whole", 66, 67, finish="length")
    assert next(whole).outputs[0].text == "BC"
    assert site.llm.num_open == 0


def test_a_callers_stream_that_had_not_begun_does_not_notice_a_death(start: Any) -> None:
    site = start()
    with site.llm.stream({"prompt_token_ids": [1, 2]}, SamplingParams(max_tokens=2), "a") as stream:
        site.fleet[0].die()
        eventually(lambda: site.fleet[1].added == ["a"])
        site.fleet[1].say("a", 65, 66, finish="length")
        assert "".join(output.outputs[0].text for output in stream) == "AB"


def test_a_request_without_a_stream_is_served_whole_though_its_engine_died_on_the_way(
    start: Any,
) -> None:
    """Nobody has seen what it said: text, logprobs and counts are those of the second engine."""
    site = start()
    heard = Heard()
    site.llm.add_stat_logger(heard)
    params = SamplingParams(max_tokens=9, stop=["XY"], logprobs=0, seed=5)
    stream = site.llm.stream({"prompt_token_ids": [1, 2]}, params, "a", kind=OutputKind.FINAL_ONLY)
    site.fleet[0].say("a", 65, 66, 88, events=[(QUEUED, 10), (SCHEDULED, 20)])  # ABX
    eventually(lambda: heard.iterations)
    site.fleet[0].die()
    eventually(lambda: site.fleet[1].added == ["a"])
    site.fleet[1].say("a", 67, 68, 89, events=[(QUEUED, 10**6), (SCHEDULED, 10**6)])
    site.fleet[1].say("a", 69, finish="length")
    (output,) = list(stream)
    (completion,) = output.outputs
    assert (completion.text, completion.token_ids) == ("CDYE", [67, 68, 89, 69])  # no XY
    assert (completion.finish_reason, output.engine) == ("length", 1)
    eventually(lambda: heard.ends() == ["length"])
    (done,) = [f for i in heard.iterations for f in i.finished_requests]
    assert (done.engine, done.num_generation_tokens, done.queued_time) == (1, 4, 10 / 1e9)
    assert sum(i.num_prompt_tokens for i in heard.iterations) == 2
    assert sum(len(i.time_to_first_tokens) for i in heard.iterations) == 1
    (parent,) = [p for i in heard.iterations for p in i.finished_parents]
    assert (parent.engine, parent.n, parent.max_num_generation_tokens) == (1, 1, 4)


def test_who_is_told_that_his_engine_died_hears_nothing_of_the_machine(start: Any) -> None:
    site = start(n=1)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    body = json.dumps({"prompt": "Hello", "model": "fake"})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    eventually(lambda: site.fleet[0].added)
    site.fleet[0].die("engine 0 (process 4711) was ended by SIGKILL")
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    connection.close()
    assert (response.status, error["type"], error["code"]) == (500, "server_error", "engine_dead")
    assert error["message"] == "The engine that ran this request has died."


def test_what_waited_on_a_dead_engine_is_counted_from_there(start: Any) -> None:
    """The first engine never came to say that it was queued."""
    site = start()
    heard = Heard()
    site.llm.add_stat_logger(heard)
    before = time.perf_counter_ns()
    stream = site.llm.stream({"prompt_token_ids": [1, 2]}, SamplingParams(max_tokens=1), "a")
    sent = time.perf_counter_ns()
    site.fleet[0].die()
    eventually(lambda: site.fleet[1].added == ["a"])
    begun = sent + 5 * 10**9
    site.fleet[1].say("a", 65, finish="length", events=[(QUEUED, begun), (SCHEDULED, begun)])
    list(stream)
    eventually(heard.ends)
    (done,) = [f for i in heard.iterations for f in i.finished_requests]
    assert done.engine == 1 and done.queued_time is not None
    assert 5.0 <= done.queued_time <= (begun - before) / 1e9


def test_a_request_that_is_aborted_before_it_spoke_counts_for_its_engine(start: Any) -> None:
    site = start()
    heard = Heard()
    site.llm.add_stat_logger(heard)
    streams = [
        site.llm.stream({"prompt_token_ids": [1]}, SamplingParams(max_tokens=1), name)
        for name in ("a", "b")
    ]
    streams[1].close()  # it was on engine 1
    (done,) = [f for i in heard.iterations for f in i.finished_requests]
    (parent,) = [p for i in heard.iterations for p in i.finished_parents]
    assert (done.engine, parent.engine) == (1, 1)
    streams[0].close()


# --- the command ----------------------------------------------------------------------------------


@dataclass
class Ended:
    status: int
    out: str
    err: str


@pytest.fixture
def admin(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run ``minivllm admin WORDS``."""

    def run(*words: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(["admin", *words])
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def test_the_command_lists_drains_resumes_and_restarts(
    start: Any, admin: Callable[..., Ended]
) -> None:
    site = start()
    url = ("--url", f"http://127.0.0.1:{site.port}/v1/")
    listed = admin("list", *url)
    assert listed.status == 0
    assert listed.out.split()[:4] == ["engine", "state", "epoch", "pid"]
    restarted = admin("restart", "0", "--port", str(site.port))
    assert restarted.status == 0
    assert restarted.out.split("\n")[1].split()[:3] == ["0", "ready", "2"]
    site.open("a")  # on engine 0
    late = admin("drain", "0", *url, "--timeout", "0")
    assert late.status == 1
    assert "engine 0 is draining with 1 open requests" in late.err
    assert "admin resume 0" in late.err
    assert admin("resume", "0", *url).status == 0
    assert site.fleet.states() == ["ready", "ready"]


def test_the_command_notices_that_somebody_called_it_off(
    start: Any, admin: Callable[..., Ended]
) -> None:
    site = start()
    site.open("a")

    def resume() -> None:
        eventually(lambda: site.fleet.states()[0] == "draining")
        site.fleet.client.resume(0)

    for verb in ("drain", "restart"):
        threading.Thread(target=resume, daemon=True).start()
        ended = admin(verb, "0", "--port", str(site.port))
        assert (ended.status, "was resumed meanwhile" in ended.err) == (1, True)


def test_the_commands_errors_say_what_to_do(start: Any, admin: Callable[..., Ended]) -> None:
    site = start(api_keys=("secret",))
    url = ("--url", f"http://127.0.0.1:{site.port}")
    no_key = admin("list", *url)
    assert (no_key.status, "API key" in no_key.err) == (1, True)
    no_engine = admin("drain", "7", *url, "--api-key", "secret")
    assert (no_engine.status, "0 to 1" in no_engine.err) == (1, True)
    no_url = admin("list", "--url", "localhost:8000")
    assert (no_url.status, "http://127.0.0.1:8000" in no_url.err) == (2, True)
    nobody = admin("list", "--url", "http://127.0.0.1:1")
    assert (nobody.status, "Is the server up?" in nobody.err) == (1, True)
