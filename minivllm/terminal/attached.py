"""Attached to a running server: one of its engines held by its gate, and stepped from here.

What the page may do, this may, by the same routes and messages; it needs the driver's role. The
gate is found in some state (mostly open), and the server sets it back so when the last debugger has
let go, or is gone, killed even, for some seconds (``viz/holds.py``). A connection that is lost
heals: the events that were told meanwhile are fetched. An engine that is started anew begins a new
history.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import quote

from minivllm.errors import AttachError, ConfigError
from minivllm.terminal.channel import ONLY_LOOKS, Channel, Handler, ServerAddress
from minivllm.terminal.channel_gate import ASK_S, ChannelGate
from minivllm.terminal.history import History
from minivllm.terminal.past import RUN, Lives, Past, decode_lines, past_run
from minivllm.terminal.runs import Run
from minivllm.terminal.steered import Source, SteeredRun
from minivllm.terminal.stepped import fork_of
from minivllm.trace.events import Event
from minivllm.trace.file import decode_event

WHOLE = 50_000
"""Events of an engine that are fetched from the first; of more, only what comes from now on, after
the state as it is."""
ROLE_S = 5.0
"""So long the server may take to say whether this may steer; then the first verb will tell."""
FIND_S = 5.0
"""So long a request may take to reach the engine that the router has chosen."""


class Attached:
    """A :class:`~minivllm.terminal.steered.Source`: an engine of a running server."""

    label = "ATTACHED"

    def __init__(self, address: ServerAddress, engine: int) -> None:
        """Raises AttachError: nobody there, no key, only a viewer, no engine of that number."""
        self.address, self.engine, self.stream = address, engine, f"engine{engine}"
        self._found = ""  # how the gate was found; empty: not held yet
        self.news = ""
        self._lock = threading.Lock()
        self._came: deque[Event] = deque()
        self._behind: int | None = None  # fetch up to there: the channel does not send it
        self._seq = 0
        self._idle = False
        self._reset = False
        self._driver = threading.Event()
        self._refused = ""
        lives = Lives.ask(address)
        self.header, self._run_id = lives.header, lives.epoch
        self.life = lives.of(self.stream)[-1]
        self.which = lives.which(self.stream)
        handlers: dict[str, Handler] = {
            "role": self._on_role,
            "batch": self._on_batch,
            "lag": self._on_lag,
            "lives": self._on_lives,
            "welcome": self._on_lives,
            "gone": lambda *_: None,
            "lost": self._on_lost,
        }
        self._channel = Channel(address, handlers, self._greet)
        try:
            self._driver.wait(ROLE_S)
            if self._refused:
                raise AttachError(self._refused)
            self.gate = ChannelGate(self._channel, engine)
            self._found = self.gate.hold()
            self._catch_up()
            self._greet()
        except BaseException:
            self._channel.close()
            raise

    # --- for the debugger ------------------------------------------------------------------------

    def take(self) -> list[Event]:
        with self._lock:
            behind, self._behind = self._behind, None
            if behind is not None:
                self._came.clear()
        if behind is not None:
            self._fetch(behind)
        with self._lock:
            events = list(self._came)
            self._came.clear()
        if events:
            self._seq = events[-1].seq
            self._idle = events[-1].kind in ("run.idle", "run.end")
        return events

    def began_anew(self) -> bool:
        """The engine is another one since the last call: its history starts here."""
        if not self._reset:
            return False
        self._reset = False
        lives = Lives.ask(self.address)
        self.header, self._run_id = lives.header, lives.epoch
        self.life = lives.of(self.stream)[-1]
        with self._lock:
            self._came.clear()
            self._seq, self._behind = 0, None
        self._catch_up()
        self._found = self.gate.hold()
        self._greet()
        self.news = f"{self.stream} was started anew: this is its life {self.life}"
        return True

    def is_idle(self) -> bool:
        return self._idle

    def can_come(self, number: int) -> bool:
        return True

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        """Raises AttachError for one that was sent to another engine: that is the router's choice,
        and stays so."""
        value = {"prompt": prompt, "max_tokens": max_tokens}
        request_id = str(self._channel.command("submit", value))
        if not self.which:
            return request_id
        deadline = time.monotonic() + FIND_S
        while time.monotonic() < deadline:
            path = f"/api/runs/{RUN}/find?request={quote(request_id)}"
            if (found := self.address.get_json(path)) is not None:
                if found["stream"] != self.stream:
                    number = found["stream"].removeprefix("engine")
                    raise AttachError(
                        f"the router has sent it to {found['stream']}, where it is "
                        f"{found['req']}: --engine {number} shows it"
                    )
                break
            time.sleep(ASK_S)
        return request_id

    def abort(self, request_id: str) -> None:
        self._channel.command("abort", request_id)

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self._channel.command("knobs", knobs)

    def fork(self, at_step: int, knobs: dict[str, Any], history: History) -> Source:
        return fork_of(history, at_step, knobs)

    def close(self) -> None:
        """Leave the gate as it was found. Raises AttachError where that cannot be said any more."""
        try:
            self.gate.release()
        except AttachError as error:
            raise AttachError(
                f"the gate could not be set back to {self._found!r} ({error}); the page can do it, "
                f"or attach again and quit"
            ) from error
        finally:
            self._channel.close()

    # --- the past --------------------------------------------------------------------------------

    @property
    def _past(self) -> Past:
        return Past(self.address, self.stream, self.life)

    def _catch_up(self) -> None:
        """All there is, or the state as it is where that would be too much."""
        first, head = Lives.ask(self.address).ranges[self.stream, self.life]
        if head - first < WHOLE:
            self._seq = first - 1
            with contextlib.suppress(AttachError):  # its first is forgotten just now
                self._fetch(head)
                if not self._came or self._came[0].kind in ("run.start", "run.snapshot"):
                    return
        snapshot = self._past.snapshot(first, head)
        with self._lock:
            self._came.clear()
            self._came.append(snapshot)
        self._seq = snapshot.seq
        self._fetch(head)

    def _fetch(self, to: int) -> None:
        with self._lock:
            start = (self._came[-1].seq if self._came else self._seq) + 1
        events = self._past.events(start, to)
        with self._lock:
            self._came.extend(events)
        with contextlib.suppress(AttachError):
            self._channel.send("ack", {"stream": self.stream, "life": self.life, "to": to})

    # --- on the channel's thread -----------------------------------------------------------------

    def _greet(self) -> None:
        if self.news.startswith("the connection"):
            self.news = "connected again"
        with self._lock:
            seq = self._came[-1].seq if self._came else self._seq
        known = {self.stream: {"life": self.life, "seq": seq}}
        if self._found:  # this connection is another one to the server
            again = {"id": 0, "op": "hold", "value": self.gate.holding, "engine": self.engine}
            self._channel_send("command", again)
        self._channel_send("hello", {"run": RUN, "epoch": self._run_id, "streams": known})

    def _channel_send(self, *message: Any) -> None:
        channel = getattr(self, "_channel", None)
        if channel is not None:
            channel.send(*message)

    def _on_role(self, role: dict[str, Any]) -> None:
        if not role.get("driver"):
            self._refused = f"this {ONLY_LOOKS.format(url=self.address.url)}"
        self._driver.set()

    def _on_batch(self, about: dict[str, Any], payload: bytes) -> None:
        if about["stream"] != self.stream or about["life"] != self.life:
            return
        events = [decode_event(line) for line in decode_lines(payload)]
        with self._lock:
            newest = self._came[-1].seq if self._came else self._seq
            fresh = [event for event in events if event.seq > newest]
            if fresh and fresh[0].seq == newest + 1:
                self._came.extend(fresh)
            elif fresh:
                self._behind = fresh[-1].seq
        self._channel_send("ack", {"stream": self.stream, "life": self.life, "to": about["to"]})

    def _on_lag(self, about: dict[str, Any]) -> None:
        if about["stream"] == self.stream and about["life"] == self.life:
            self._behind = about["head"]

    def _on_lives(self, about: dict[str, Any]) -> None:
        mine = [life["life"] for life in about["lives"] if life["stream"] == self.stream]
        if about["epoch"] != self._run_id or (mine and max(mine) > self.life):
            self._reset = True

    def _on_lost(self, why: str) -> None:
        self.news = f"the connection to {self.address.url} is lost; it is being made anew"


def attach_to(url: str, api_key: str | None, engine: int = 0, life: int | None = None) -> Run:
    """Raises AttachError, ConfigError."""
    address, stream = ServerAddress(url, api_key), f"engine{engine}"
    if life is not None:
        lives = Lives.ask(address)
        numbers = lives.of(stream)
        if life not in numbers:
            allowed = f"a life of {stream}: {', '.join(map(str, numbers))}"
            raise ConfigError("--life", life, allowed)
        if life != numbers[-1]:
            return past_run(Past(address, stream, life), lives)
    return SteeredRun(Attached(address, engine))
