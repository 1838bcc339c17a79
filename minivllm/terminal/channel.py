"""A server's live channel, from the other side: its page's messages over one websocket, and HTTP.

The dashboard speaks Socket.IO; what of it is needed here is small: a greeting, events with a list
of arguments, bytes that follow one, pings. A connection that is lost is made anew, again and again,
until this is closed. What the messages mean stands in ``viz/protocol.py`` and ``viz/commands.py``.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from minivllm.errors import AttachError, ConfigError

if TYPE_CHECKING:
    from minivllm.terminal.websocket import WebSocket

CONNECT_S = 10.0
ANSWER_S = 30.0
"""Within this a command is answered, or the server has other troubles."""
LONGEST_PAUSE_S = 5.0
"""Between two attempts to connect anew."""
SILENCE_S = 60.0
"""The server pings each 25 s; one that says nothing for so long is gone."""

ONLY_LOOKS = (
    "lets you look at {url}, not steer: --attach needs the driver's role. Give a key (--api-key), "
    "the driver's link (?driver=CODE), or sit at its machine"
)

Handler = Callable[..., None]


class ServerAddress:
    """Where the server is, and what opens its doors."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """``url`` may carry ``?driver=CODE``. Raises ConfigError, and AttachError for a code that
        only lets look."""
        text = url if "://" in url else f"http://{url}"
        parts = urlsplit(text)
        try:
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            sound = False
        if not sound:
            raise ConfigError("--attach", url, "an address such as http://127.0.0.1:8000")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._parts = parts
        keys = (api_key or "").split()  # the variable may hold all that `serve` takes
        self.headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        codes = parse_qs(parts.query)
        if "driver" in codes:
            self.headers["Cookie"] = f"minivllm_driver={codes['driver'][0]}"
        elif "code" in codes and not keys:
            raise AttachError(f"the join code {ONLY_LOOKS.format(url=self.url)}")

    @property
    def place(self) -> tuple[str, int, bool]:
        """Host, port, and whether it speaks TLS."""
        tls = self._parts.scheme == "https"
        return self._parts.hostname or "", self._parts.port or (443 if tls else 80), tls

    def get(self, path: str) -> bytes:
        """Raises AttachError with the server's own words."""
        host, port, tls = self.place
        kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        connection = kind(host, port, timeout=CONNECT_S)
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AttachError(
                f"no answer from {self.url}: {why}. Is the server up? minivllm serve starts one"
            ) from error
        finally:
            connection.close()
        if status >= 400:
            raise AttachError(self._refusal(status, body), status)
        return body

    def get_json(self, path: str) -> Any:
        body = self.get(path)
        try:
            return json.loads(body)
        except ValueError:
            raise AttachError(f"{self.url} is no minivllm server: {path} is no JSON") from None

    def _refusal(self, status: int, body: bytes) -> str:
        told = ""
        with contextlib.suppress(ValueError, AttributeError):
            answer = json.loads(body)
            error = answer.get("error", answer.get("message", ""))
            told = error.get("message", "") if isinstance(error, dict) else str(error)
        if status in (401, 403):
            has = "the key or code is not one of its own" if self.headers else "none was given"
            return (
                f"{self.url} lets nobody in without its key or code, and {has}: --api-key KEY "
                f"(or MINIVLLM_API_KEY), or the driver's link ({told or status})"
            )
        if status == 404:
            return f"{self.url} has no live engine to step ({told or 'no such route'})"
        return f"{self.url} answers {status}: {told or 'no words'}"


class Channel:
    """Open from the constructor on, until :meth:`close`."""

    def __init__(
        self, address: ServerAddress, handlers: dict[str, Handler], greet: Callable[[], None]
    ) -> None:
        """``handlers``: message → what takes its arguments, on the channel's thread. ``greet`` is
        called there, too, whenever a connection has been made. Raises AttachError."""
        self.address = address
        self._handlers, self._greet = handlers, greet
        self._ids = itertools.count(1)
        self._open: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._closing = threading.Event()
        self.is_up = True
        self._socket = self._connect()
        self._thread = threading.Thread(target=self._loop, name="attach-channel", daemon=True)
        self._thread.start()

    def send(self, *message: Any) -> None:
        """Raises AttachError while there is no connection."""
        try:
            if not self.is_up:
                raise ConnectionError
            self._socket.send("42" + json.dumps(message))
        except Exception as error:
            raise AttachError(
                f"the connection to {self.address.url} is lost; it is being made anew"
            ) from error

    def command(self, op: str, value: Any = None, **fields: Any) -> Any:
        """What the server answers. Raises AttachError with its words where it refuses."""
        number = next(self._ids)
        answers = self._open[number] = queue.SimpleQueue()
        try:
            self.send("command", {"id": number, "op": op, "value": value, **fields})
            answer = answers.get(timeout=ANSWER_S)
        except queue.Empty:
            raise AttachError(f"{self.address.url} does not answer to {op}") from None
        finally:
            self._open.pop(number, None)
        if not answer.get("ok"):
            raise AttachError(str(answer.get("error") or f"{op} was refused"))
        return answer.get("value")

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(Exception):
            self._socket.close()
        self._thread.join(timeout=2.0)

    # --- the connection --------------------------------------------------------------------------

    def _connect(self) -> WebSocket:
        from minivllm.terminal.websocket import Refused, WebSocket

        host, port, tls = self.address.place
        path = "/socket.io/?EIO=4&transport=websocket"
        url = self.address.url
        try:
            socket = WebSocket(host, port, path, self.address.headers, tls, CONNECT_S)
        except Refused as error:
            raise AttachError(f"{url} opens no channel ({error})") from error
        except OSError as error:
            raise AttachError(f"no answer from {url}: {error.strerror or error}") from error
        try:
            self._expect(socket, "0")
            socket.send("40")
            self._expect(socket, "40")
        except OSError as error:
            raise AttachError(f"{url} closes its channel at once") from error
        return socket

    def _expect(self, socket: WebSocket, start: str) -> None:
        deadline = time.monotonic() + CONNECT_S
        while (left := deadline - time.monotonic()) > 0:
            packet = socket.receive(timeout=left)
            if isinstance(packet, str) and packet.startswith(start):
                return
            if isinstance(packet, str) and packet.startswith("44"):
                raise AttachError(f"{self.address.url} lets nobody in without its key or code")
        raise AttachError(f"{self.address.url} does not speak as a minivllm server does")

    # --- on the channel's thread -----------------------------------------------------------------

    def _loop(self) -> None:
        pause = 0.25
        while not self._closing.is_set():
            try:
                self.is_up = True
                self._greet()
                pause = 0.25
                self._read()
            except Exception as error:
                self.is_up = False
                if self._closing.is_set():
                    return
                self._socket.close()
                self._fail_open()
                self._handlers["lost"](str(error))
            while not self._closing.wait(pause):
                pause = min(pause * 2, LONGEST_PAUSE_S)
                with contextlib.suppress(AttachError):
                    self._socket = self._connect()
                    break

    def _read(self) -> None:
        pending: list[Any] | None = None  # an event whose bytes are still to come
        while True:
            packet = self._socket.receive(timeout=SILENCE_S)
            if packet is None:
                raise AttachError("the server has fallen silent")
            if isinstance(packet, bytes):
                if pending is not None:
                    name, *arguments = pending
                    pending = None
                    self._handle(name, [*arguments[:-1], packet])
            elif packet == "2":
                self._socket.send("3")
            elif packet.startswith("42"):
                name, *arguments = json.loads(packet[2:])
                self._handle(name, arguments)
            elif packet.startswith("451-"):  # its last argument is bytes, in the next packet
                pending = json.loads(packet[4:])
            elif packet.startswith("41") or packet == "1":
                raise AttachError("the server has closed the channel")

    def _handle(self, name: str, arguments: list[Any]) -> None:
        if name == "result":
            answers = self._open.get(arguments[0].get("id"))
            if answers is not None:
                answers.put(arguments[0])
        elif name in self._handlers:
            self._handlers[name](*arguments)

    def _fail_open(self) -> None:
        lost = {"ok": False, "error": f"the connection to {self.address.url} was lost"}
        for answers in list(self._open.values()):
            answers.put(lost)
