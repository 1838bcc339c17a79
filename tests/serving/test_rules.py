"""Who may what: keys by route, hosts, origins, roles, sizes. Through the real server, raw."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import socketio
from werkzeug.test import Client

from minivllm.api.openapi import document
from minivllm.api.server import OPEN_ENDPOINTS
from minivllm.config import make_config
from minivllm.serving.door import Door
from minivllm.serving.front import PAGE_ENDPOINTS, Codes, FrontEnd
from minivllm.serving.settings import ServeSettings
from tests.serving.conftest import RunningServer, StartServer, until
from tests.serving.scripted_server import start_scripted

ERROR_FIELDS = {"message", "type", "param", "code"}
KEY = {"Authorization": "Bearer second"}

# Every route of the server is on one of these lists, or it needs a key.
OPEN = {
    "api.health",
    "api.metrics",
    "api.ping",
    "api.ready",
    "api.version",
    "index",
    "icon",
    "static",
}
NEEDS_CODE = {"list_runs", "events", "snapshot", "find", "tour", "list_artifacts", "artifact"}
NEEDS_CODE |= {"workbench_offers", "projector"}
NEEDS_CODE |= {"worksheet", "own_offers", "run_own", "own_file", "export", "attention"}
NEEDS_CODE |= {"list_lessons", "lesson"}


@pytest.fixture
def front() -> Iterator[FrontEnd]:
    settings = ServeSettings(api_keys=("first", "second"))
    front = FrontEnd(make_config(live=True), settings, Codes("join", "drive"), start_scripted)
    yield front
    front.end()


def test_every_route_is_guarded_or_on_the_list(front: FrontEnd) -> None:
    client, seen = front.app.test_client(), set()
    for rule in front.app.url_map.iter_rules():
        seen.add(rule.endpoint)
        path = re.sub(r"<any\((\w+)[^>]*>", r"\1", rule.rule)
        path = re.sub(r"<[^>]+>", "1", path)
        for method in rule.methods or ():
            status = client.open(path, method=method).status_code
            if method == "OPTIONS":
                continue  # tells the methods, and nothing of what is there
            if rule.endpoint in OPEN:
                assert status not in (401, 403), (method, path)
            else:
                expected = 403 if rule.endpoint in NEEDS_CODE else 401
                assert status == expected, f"{method} {path} {rule.endpoint}: {status}"
    assert seen >= OPEN | NEEDS_CODE


def test_every_route_is_in_the_document_and_nothing_else(front: FrontEnd) -> None:
    """Of what serve serves, but for the dashboard and what is no JSON."""
    told = {(path, method) for path, item in document()["paths"].items() for method in item}
    found, others = set(), set()
    for rule in front.app.url_map.iter_rules():
        if rule.endpoint.startswith(("api.", "admin.")):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            found |= {(path, method.lower()) for method in methods}
        else:
            others.add(rule.endpoint)
    assert found - {("/openapi.json", "get"), ("/metrics", "get")} == told
    views = front.app.view_functions
    rooms = {views[endpoint].__module__.split(".")[0] for endpoint in others - {"static"}}
    assert rooms == {"viz"}


def test_what_a_refusal_says_in_its_headers_is_in_the_document(server: RunningServer) -> None:
    described = document()["components"]["responses"]
    tries = {
        401: server.get("/v1/models"),
        403: server.get("/v1/models", Host="evil.example"),
        404: server.get("/v1/models/x", **KEY),
        405: server.get("/v1/completions", **KEY),
        415: server.get("/v1/completions", "POST", b"{}", Content_Type="text/plain", **KEY),
    }
    for status, (given, headers, _) in tries.items():
        assert given == status
        missing = set(described[str(status)]["headers"]) - set(headers)
        assert not {name for name in missing if name.lower() not in map(str.lower, headers)}
    assert {"413", "414", "431", "500", "503", "504"} <= set(described)


def test_every_route_of_the_page_has_an_access_rule_of_its_own(front: FrontEnd) -> None:
    """So it needs no key beside: a link to a request's life must lead there."""
    of_page = {
        rule.endpoint
        for rule in front.app.url_map.iter_rules()
        if not rule.endpoint.startswith(("api.", "admin."))
    }
    assert of_page == set(PAGE_ENDPOINTS) == (OPEN | NEEDS_CODE) - OPEN_ENDPOINTS


@pytest.fixture(scope="module")
def server(serve_module: StartServer) -> RunningServer:
    return serve_module(
        {"max_num_seqs": 4, "engine_processes": True},
        api_keys=["first", "second"],
        allowed_hosts=["public.example"],
        max_body_bytes=2_500_000,
        log_level="debug",
    )


PATHS = [
    "//v1/models",
    "/v1//models",
    "/v1/../v1/models",
    "/health/../v1/models",
    "/health%2f..%2fv1%2fmodels",
    "/static/../v1/models",
    "/static/%2e%2e/v1/models",
    "/static/..%2fv1/models",
    "/v1%2fmodels",
    "/%76%31/models",
    "/%2e/v1/models",
    "/v1/models/",
    "/v1/models;/health",
    "/v1/models?/health",
    "/v1/models%00/health",
    "/V1/models",
    "http://127.0.0.1/v1/models",
    "http://127.0.0.1/health/../v1/models",
    "http://evil.example/v1/models",
    "*",
]
HEADERS = [
    "SCRIPT_NAME: /v1",
    "PATH_INFO: /health",
    "X-Original-URL: /health",
    "X-Rewrite-URL: /health",
    "X-Forwarded-Prefix: /health",
    "X-Forwarded-For: 127.0.0.1",
    "X-HTTP-Method-Override: OPTIONS",
    "Authorization: Bearer",
    "Authorization: Bearer firs",
    "Authorization: Basic first",
    "Authorization: Bearer first second",
    "Authorization: Bearer \xff\xfe",
    "api-key: first",
]


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_no_path_and_no_header_opens_a_guarded_route(server: RunningServer) -> None:
    host = f"Host: {server.address}"
    tries = [("GET " + path, host) for path in PATHS]
    tries += [("GET /v1/models", f"{host}\r\n{header}") for header in HEADERS]
    tries += [("GET /v1/models", f"Host: {server.address}/health"), ("HEAD /v1/models", host)]
    for line, headers in tries:
        request = f"{line} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n"
        answer = server.raw(request.encode("latin-1"))
        assert status_of(answer) >= 300, (line, headers, answer)
        assert b'"object"' not in answer, (line, headers)
    for key in ("first", "second"):
        assert server.get("/v1/models", Authorization=f"Bearer {key}")[0] == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:1", True),
        ("[::1]", True),
        ("public.example", True),
        ("PUBLIC.example:8000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("[::1", False),
        ("evil.example#localhost", False),
        ("evil.example@localhost", False),
        ("localhost/evil.example", False),
        ("localhost?evil.example", False),
        ("localhost:abc", False),
        ("localhost:99999999", False),
        ("", False),
    ],
)
def test_only_names_of_this_server_are_answered(
    server: RunningServer, host: str, allowed: bool
) -> None:
    # DNS rebinding: a foreign page's own name points at 127.0.0.1
    answer = server.raw(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status_of(answer) == (200 if allowed else 403)
    assert b"x-request-id: " in answer.lower()
    for path in ("/socket.io/?EIO=4&transport=polling", "/api/runs"):
        answer = server.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status_of(answer) in (400, 403)


def test_who_is_refused_at_the_door_is_counted(server: RunningServer) -> None:
    def refused() -> float:
        shown = server.get("/metrics")[2].decode()
        found = re.search(r'http_responses_total\{.*status="403"\} (\S+)', shown)
        return float(found[1]) if found else 0.0

    before = refused()
    server.raw(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nX-Request-Id: abc\r\n\r\n")
    assert refused() == before + 1


def test_only_http_1_0_may_name_no_host(server: RunningServer) -> None:
    assert status_of(server.raw(b"GET /version HTTP/1.0\r\n\r\n")) == 200
    assert status_of(server.raw(b"GET /version HTTP/1.1\r\n\r\n")) == 403


WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("name", WEBSOCKET)
def test_what_is_no_request_for_a_websocket_is_refused(server: RunningServer, name: str) -> None:
    path, lines = "/socket.io/?EIO=4&transport=websocket", WEBSOCKET | KEY
    del lines[name]
    status, _, body = server.get(path, **lines)
    assert status == 400 and name in json.loads(body)["error"]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "\x00", "null"])
def test_an_origin_that_is_none_is_a_foreign_one(server: RunningServer, origin: str) -> None:
    request = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n"
    answer = server.raw(request.encode() + b"Content-Length: 2\r\n\r\n{}")
    assert status_of(answer) in (400, 403)
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == ERROR_FIELDS


def test_whatever_fails_in_the_door_is_answered_in_openais_words() -> None:
    def app(environ: object, start_response: object) -> None:
        raise ValueError("the inside")

    statuses: list[int] = []
    client = Client(Door(app, ServeSettings(), statuses.append))
    answer = client.get("/", headers={"Host": "localhost"})
    assert answer.status_code == 500 == statuses[0] and "inside" not in answer.text
    assert set(answer.json["error"]) == ERROR_FIELDS


def test_processes_and_deaths_are_told_to_those_who_steer(server: RunningServer) -> None:
    def told(**headers: str) -> dict[str, object]:
        (engine,) = json.loads(server.get("/health", **headers)[2])["engines"]
        return engine

    driver, viewer = codes(server)
    assert [told(**who)["pid"] is None for who in ({}, {"Cookie": viewer})] == [True, True]
    assert [told(**who)["pid"] is None for who in (KEY, {"Cookie": driver})] == [False, False]


def test_pages_of_other_origins_may_neither_read_nor_write(server: RunningServer) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    for foreign in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, headers, answer = server.get("/v1/completions", "POST", body, **KEY, **foreign)
        assert (status, json.loads(answer)["error"]["code"]) == (403, "cross_origin")
        status, headers, _ = server.get("/v1/models", **KEY, **foreign)
        assert not [name for name in headers if name.lower().startswith("access-control")]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    _, headers, _ = server.get("/v1/completions", "OPTIONS", **preflight)
    assert not [name for name in headers if name.lower().startswith("access-control")]
    own = {"Origin": f"http://{server.address}", "Sec-Fetch-Site": "same-origin"}
    assert server.get("/v1/completions", "POST", body, **KEY, **own)[0] == 200
    poll = "/socket.io/?EIO=4&transport=polling"
    assert server.get(poll, **KEY, Origin="http://evil.example")[0] == 400


def codes(server: RunningServer) -> tuple[str, str]:
    found = re.search(r"\?driver=(\S+) .*\?code=(\S+)", server.ready_line)
    assert found
    _, joined, _ = server.get(f"/?code={found[2]}")
    return f"minivllm_driver={found[1]}", joined["set-cookie"].partition(";")[0]


def ask(server: RunningServer, cookie: str, op: str, value: object = None) -> dict[str, object]:
    """One command on the page's channel, and its result."""
    client, results = socketio.Client(reconnection=False), []
    client.on("result", results.append)
    client.connect(f"http://{server.address}", headers={"Cookie": cookie})
    client.emit("command", {"id": 1, "op": op, "value": value})
    until(lambda: results, f"the result of {op}")
    client.disconnect()
    return results[0]


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("pause", None),
        ("submit", "hello"),
        ("knobs", {"max_num_seqs": 1}),
        ("arm", None),
        ("simulate", {"scenario": "tiny-pressure", "knobs": {}}),
    ],
)
def test_a_viewer_may_look_and_not_steer(server: RunningServer, op: str, value: object) -> None:
    _, viewer = codes(server)
    refused = ask(server, viewer, op, value)
    assert not refused["ok"] and "only the driver" in str(refused["error"])


def test_the_drivers_code_steers_and_the_join_code_is_not_one(server: RunningServer) -> None:
    driver, viewer = codes(server)
    assert ask(server, driver, "pause")["ok"]
    assert ask(server, driver, "resume")["ok"]
    swapped = viewer.replace("minivllm_join", "minivllm_driver")
    assert server.get("/api/runs", Cookie=swapped)[0] == 403
    assert server.get("/api/runs", Cookie=viewer)[0] == 200
    assert server.get("/api/runs", **KEY)[0] == 200


def test_a_workload_is_a_name_and_never_a_file(server: RunningServer, tmp_path: Path) -> None:
    driver, _ = codes(server)
    there, pipe = tmp_path / "there.toml", tmp_path / "pipe.toml"
    there.write_text('secret = "word"')
    os.mkfifo(pipe)
    for path in (there, pipe, tmp_path / "absent.toml", "../scenarios/tiny-pressure.toml"):
        refused = ask(server, driver, "workload", str(path))
        assert not refused["ok"] and " | tiny-pressure" in str(refused["error"])
        assert "secret" not in str(refused["error"])
    assert ask(server, driver, "workload", "tiny-pressure")["ok"]


def test_the_channel_needs_a_code_or_a_key(server: RunningServer) -> None:
    poll = "/socket.io/?EIO=4&transport=polling"
    assert server.get(poll)[0] == 403
    assert server.get(poll, Cookie="minivllm_join=; minivllm_driver=")[0] == 403
    assert server.get(poll, Authorization="Bearer third")[0] == 403
    assert server.get(poll, **KEY)[0] == 200


def test_what_is_too_large_is_refused_with_an_error_body(server: RunningServer) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {server.address}\r\n"
    head += "Authorization: Bearer first\r\nContent-Type: application/json\r\n"
    large = b'{"prompt": "' + b"a" * 3_000_000 + b'"}'
    deep = b'{"prompt": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    tries = {
        head + f"Content-Length: {len(large)}\r\n\r\n": (large, 413),
        head + "Transfer-Encoding: chunked\r\n\r\n": (chunked, 413),
        head + f"Content-Length: {len(deep)}\r\n\r\n": (deep, 400),
        f"GET /health HTTP/1.1\r\nX: {'a' * 10_000}\r\n\r\n": (b"", 431),
        f"GET /health HTTP/1.1\r\n{''.join(f'X{i}: 1' + chr(13) + chr(10) for i in range(200))}"
        "\r\n": (b"", 431),
        f"GET /{'a' * 10_000} HTTP/1.1\r\n\r\n": (b"", 414),
        "GET /health HTTP/9.9\r\n\r\n": (b"", 400),
        "nonsense\r\n\r\n": (b"", 400),
    }
    for request, (body, status) in tries.items():
        answer = server.raw(request.encode() + body)
        assert status_of(answer) == status, (request[:80], answer[:300])
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
    assert server.get("/health")[0] == 200


def test_a_prompt_beyond_the_context_says_so_in_openais_words(server: RunningServer) -> None:
    status, _, body = server.get("/v1/completions", "POST", {"prompt": "a" * 3000}, **KEY)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "context_length_exceeded")
