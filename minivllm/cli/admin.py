"""``minivllm admin``: see to the engines of a running server, one at a time.

A rolling upgrade is ``restart`` for one engine after the other: the others take the requests, and
none is lost. The counterpart on the server's side is ``minivllm/api/admin.py``.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from minivllm.errors import AdminError, ConfigError

Status = dict[str, Any]
"""One engine's, as the server says it."""

POLL_S = 0.2
CONNECT_S = 10.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See to the engines of a running server: list, drain, resume and restart them.",
)

Engine = Annotated[int, typer.Argument(metavar="ENGINE", help="Its number: 0, 1, …", min=0)]
Url = Annotated[str, typer.Option("--url", metavar="URL", help="The server, without /v1.")]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", help="Short for --url http://127.0.0.1:N.")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="MINIVLLM_API_KEY", help="One of the server's keys."),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done, or at once.")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for that.", min=0)
]
DEFAULT_URL = "http://127.0.0.1:8000"


@app.command("list")
def list_engines(url: Url = DEFAULT_URL, port: Port = None, api_key: ApiKey = None) -> None:
    """How each engine does."""
    _show(Server.at(url, port, api_key).engines())


@app.command("drain")
def drain(
    engine: Engine,
    url: Url = DEFAULT_URL,
    port: Port = None,
    api_key: ApiKey = None,
    wait: Wait = True,
    timeout: Timeout = 300.0,
) -> None:
    """Send an engine no new requests; done when it has finished those it has.

    It stays so until `resume` or `restart`, even if it dies in between. Status 1: not done in time
    (it goes on draining).
    """
    server = Server.at(url, port, api_key)
    status = server.steer(engine, "drain")
    if wait:
        status = server.wait(engine, timeout, lambda now: now["state"] == "drained", status)
    _show([status])


@app.command("resume")
def resume(
    engine: Engine,
    url: Url = DEFAULT_URL,
    port: Port = None,
    api_key: ApiKey = None,
) -> None:
    """Send an engine requests again; calls off a restart that still drains."""
    _show([Server.at(url, port, api_key).steer(engine, "resume")])


@app.command("restart")
def restart(
    engine: Engine,
    url: Url = DEFAULT_URL,
    port: Port = None,
    api_key: ApiKey = None,
    wait: Wait = True,
    timeout: Timeout = 300.0,
) -> None:
    """Replace an engine by a new one: drain it, end it, start it; done when that one is ready.

    No request is lost: the other engines take the new ones meanwhile (with no other, the server
    answers 503 with Retry-After). Status 1: not done in time (it is done later, unless `resume`
    calls it off).

    \b
    Example, a rolling upgrade of two engines:
      minivllm admin restart 0 && minivllm admin restart 1
    """
    server = Server.at(url, port, api_key)
    status = server.steer(engine, "restart")
    epoch = status["epoch"] + (status["state"] != "starting")

    def is_done(now: Status) -> bool:
        return now["epoch"] >= epoch and now["state"] in ("ready", "draining", "drained")

    if wait:
        status = server.wait(engine, timeout, is_done, status)
    _show([status])


@dataclass(frozen=True, slots=True)
class Server:
    """A running server's admin routes."""

    url: str
    api_key: str | None

    @staticmethod
    def at(url: str, port: int | None, api_key: str | None) -> Server:
        """Raises ConfigError for what is no address."""
        url = url if port is None else f"http://127.0.0.1:{port}"
        parts = urlsplit(url)
        try:
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            sound = False
        if not sound:
            raise ConfigError("--url", url, "an address such as http://127.0.0.1:8000")
        keys = (api_key or "").split()  # the variable may hold all that `serve` takes
        return Server(url.rstrip("/").removesuffix("/v1"), keys[0] if keys else None)

    def engines(self) -> list[Status]:
        return self._ask("GET", "/admin/engines")["engines"]

    def steer(self, engine: int, verb: str) -> Status:
        return self._ask("POST", f"/admin/engines/{engine}/{verb}")

    def wait(
        self, engine: int, timeout: float, is_done: Callable[[Status], bool], status: Status
    ) -> Status:
        """Ask until ``is_done(status)``. Raises AdminError when it is called off, or too late."""
        asked_for, deadline = status, time.monotonic() + timeout
        while not is_done(status):
            called_off = status["state"] == "ready" and status["epoch"] == asked_for["epoch"]
            if called_off and asked_for["state"] != "starting":
                raise AdminError(f"engine {engine} was resumed meanwhile: it is ready")
            if time.monotonic() >= deadline:
                why = f"; {status['message']}" if status["message"] else ""
                raise AdminError(
                    f"not done after {timeout:g} s: engine {engine} is {status['state']} with "
                    f"{status['open_requests']} open requests{why}. The server goes on with it; "
                    f"`minivllm admin resume {engine}` calls it off"
                )
            time.sleep(POLL_S)
            status = self.engines()[engine]
        return status

    def _ask(self, method: str, path: str) -> Any:
        """Raises AdminError with the server's own words."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            connection.request(method, parts.path + path, headers=headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"no answer from {self.url}: {error}. Is the server up?") from error
        finally:
            connection.close()
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if status >= 400:
            told = body.get("error", {}).get("message") if isinstance(body, dict) else None
            raise AdminError(f"{self.url} answers {status}: {told or _HINTS.get(status, '')}")
        if not isinstance(body, dict):
            raise AdminError(f"{self.url} is no minivllm server: its answer is no JSON object")
        return body


_HINTS = {404: "there is no such route; is this a minivllm server?"}


def _show(engines: list[Status]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("engine", "state", "epoch", "pid", "open requests", "stalled", "message"):
        table.add_column(heading, justify="left" if heading in ("state", "message") else "right")
    for status in engines:
        stalled = f"{status['stalled_s']:.0f} s" if status["stalled_s"] else ""
        row = (
            status["engine"],
            status["state"],
            status["epoch"],
            status["pid"] or "",
            status["open_requests"],
            stalled,
            status["message"],
        )
        table.add_row(*map(str, row))
    Console(highlight=False, soft_wrap=True).print(table)
