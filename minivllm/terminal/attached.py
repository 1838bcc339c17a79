"""Attached to a running server: one of its engines held by its gate, and stepped from here.

What the page may do, this may, by the same routes and messages; it needs the driver's role. The
gate is found in some state (mostly open) and left in it, however this ends. A connection that is
lost heals: the events that were told meanwhile are fetched. An engine that is started anew begins a
new history.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import quote

import msgspec

from minivllm.errors import AttachError, ConfigError
from minivllm.terminal.channel import ONLY_LOOKS, Channel, Handler, ServerAddress
from minivllm.terminal.history import History
from minivllm.terminal.runs import Run
from minivllm.terminal.steered import Source, SteeredRun
from minivllm.terminal.stepped import fork_of
from minivllm.trace.events import Event, Header, RunSnapshot, RunSource
from minivllm.trace.file import decode_event
from minivllm.trace.gate_control import Held
from minivllm.trace.life import Way
from minivllm.trace.until import Until

RUN = "live"
WHOLE = 50_000
"""Events of an engine that are fetched from the first; of more, only what comes from now on, after
the state as it is."""
PAGE = 5_000
"""Events of one HTTP answer."""
FIND_S = 5.0
"""So long a request may take to reach the engine that the router has chosen."""
ASK_S = 0.03
"""How often to ask where the engine stands: the server's channel publishes no more often."""
_lines = msgspec.json.Decoder(list[msgspec.Raw])


class ChannelGate:
    """A :class:`~minivllm.trace.gate_control.GateControl` at the other end of the channel."""

    def __init__(self, channel: Channel, engine: int) -> None:
        self._channel, self._engine = channel, engine
        self._listeners: list[Any] = []
        self.mode, self._rate = "run", 0.0
        self._held: Held | None = None

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        self._verb("rate", steps_per_second)

    @property
    def held(self) -> Held | None:
        self.ask()
        return self._held

    def ask(self) -> None:
        """How the gate stands now."""
        state = self._channel.command("gate", engine=self._engine)
        self.mode, self._rate = state["mode"], state["rate"]
        held = state["held"]
        self._held = Held(held["at"], held["phase"], None, held["seq"]) if held else None

    def wait_held(self, timeout: float | None = None) -> Held | None:
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.held is None and time.monotonic() < deadline:
            time.sleep(ASK_S)
        return self._held

    def pause(self) -> None:
        self._verb("pause")

    def resume(self) -> None:
        self._verb("resume")

    def step(self, n: int = 1) -> None:
        self._verb("step", n)

    def next_phase(self, n: int = 1) -> None:
        for _ in range(n):
            self._verb("phase")

    def next_event(self, n: int = 1) -> None:
        for _ in range(n):
            self._verb("event")

    def until(self, where: str | Until) -> None:
        self._verb("until", where if isinstance(where, str) else where.words)

    def on_change(self, listener: Any) -> None:
        self._listeners.append(listener)

    def _verb(self, op: str, value: Any = None) -> None:
        self._channel.command(op, value, engine=self._engine)


class Attached:
    """A :class:`~minivllm.terminal.steered.Source`: an engine of a running server."""

    label = "ATTACHED"

    def __init__(self, address: ServerAddress, engine: int) -> None:
        """Raises AttachError: nobody there, no key, only a viewer, no engine of that number."""
        self.address, self.stream = address, f"engine{engine}"
        self.news = ""
        self._lock = threading.Lock()
        self._came: deque[Event] = deque()
        self._behind: int | None = None  # fetch up to there: the channel does not send it
        self._seq = 0
        self._idle = False
        self._reset = False
        self._driver = threading.Event()
        self._refused = ""
        about = address.get_json(f"/api/runs/{RUN}")
        self.header = msgspec.convert(about["header"], Header)
        self._run_id, self.life = about["epoch"], _newest_life(about, self.stream, address)
        engines = {life["stream"] for life in about["lives"] if life["stream"] != "api"}
        self._alone = len(engines) == 1
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
            self._driver.wait(ASK_S * 100)
            if self._refused:
                raise AttachError(self._refused)
            self.gate = ChannelGate(self._channel, engine)
            self.gate.ask()
            self._found = self.gate.mode
            self.gate.pause()
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
        about = self.address.get_json(f"/api/runs/{RUN}")
        self.header = msgspec.convert(about["header"], Header)
        self._run_id, self.life = about["epoch"], _newest_life(about, self.stream, self.address)
        with self._lock:
            self._came.clear()
            self._seq, self._behind = 0, None
        self._catch_up()
        self.gate.pause()
        self._greet()
        self.news = f"{self.stream} was started anew: this is its life {self.life}"
        return True

    def is_idle(self) -> bool:
        return self._idle

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        """Raises AttachError for one that was sent to another engine: that is the router's choice,
        and stays so."""
        value = {"prompt": prompt, "max_tokens": max_tokens}
        request_id = str(self._channel.command("submit", value))
        if self._alone:
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
            if self._found == "run":
                self.gate.resume()
            else:
                self.gate.pause()
        except AttachError as error:
            raise AttachError(
                f"the gate could not be set back to {self._found!r} ({error}); the page can do it, "
                f"or attach again and quit"
            ) from error
        finally:
            self._channel.close()

    # --- the past --------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """All there is, or the state as it is where that would be too much."""
        about = self.address.get_json(f"/api/runs/{RUN}")
        lives = {(life["stream"], life["life"]): life for life in about["lives"]}
        life = lives.get((self.stream, self.life))
        if life is None:
            return
        if life["first"] == 1 or life["head"] - life["first"] < WHOLE:
            self._seq = life["first"] - 1
            with contextlib.suppress(AttachError):
                self._fetch(life["head"])
                if not self._came or self._came[0].kind in ("run.start", "run.snapshot"):
                    return
        with self._lock:
            self._came.clear()
        self._take_snapshot(life["first"], life["head"])

    def _take_snapshot(self, first: int, head: int) -> None:
        latest = self.address.get_json(self._path("snapshot"))
        data = RunSnapshot(
            epoch=self.life, state=latest["state"], sources=self._sources(first, head)
        )
        seq = latest["seq"]
        event = Event(
            stream=self.stream,
            seq=seq,
            step=latest["step"],
            phase="idle",
            kind=RunSnapshot.KIND,
            t_ns=0,
            src=0,
            req=None,
            data=data,
        )
        with self._lock:
            self._came.append(event)
        self._seq = seq
        self._fetch(head)

    def _sources(self, first: int, head: int) -> list[RunSource]:
        """Of all that is kept, the lines that tell where events come from."""
        found: list[RunSource] = []
        for start in range(max(first, 1), head + 1, PAGE):
            with contextlib.suppress(AttachError):
                for line in self._page(start, min(start + PAGE - 1, head)):
                    if b'"run.source"' in line:
                        event = decode_event(line)
                        if event.kind == "run.source":
                            found.append(event.data)
        return found

    def _fetch(self, to: int) -> None:
        with self._lock:
            start = (self._came[-1].seq if self._came else self._seq) + 1
        while start <= to:
            lines = self._page(start, min(start + PAGE - 1, to))
            if not lines:
                return
            events = [decode_event(line) for line in lines]
            with self._lock:
                self._came.extend(events)
            start = events[-1].seq + 1
        with contextlib.suppress(AttachError):
            self._channel.send("ack", {"stream": self.stream, "life": self.life, "to": to})

    def _page(self, start: int, end: int) -> list[bytes]:
        path = self._path("events") + f"&from={start}&to={end}"
        return [bytes(line) for line in _lines.decode(self.address.get(path))]

    def _path(self, what: str) -> str:
        return f"/api/runs/{RUN}/{what}?stream={self.stream}&life={self.life}"

    # --- on the channel's thread -----------------------------------------------------------------

    def _greet(self) -> None:
        if self.news.startswith("the connection"):
            self.news = "connected again"
        with self._lock:
            seq = self._came[-1].seq if self._came else self._seq
        known = {self.stream: {"life": self.life, "seq": seq}}
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
        events = [decode_event(bytes(line)) for line in _lines.decode(payload)]
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


class FetchedRun:
    """A life that has ended, of a server's engine: there is nothing to steer."""

    label = "RECORDED"
    others = ""

    def __init__(self, history: History) -> None:
        self.history = history

    def way(self, req: str) -> Way | None:
        return None

    def close(self) -> None:
        pass


def attach_to(url: str, api_key: str | None, engine: int = 0, life: int | None = None) -> Run:
    """Raises AttachError, ConfigError."""
    address = ServerAddress(url, api_key)
    if life is None:
        return SteeredRun(Attached(address, engine))
    about = address.get_json(f"/api/runs/{RUN}")
    stream = f"engine{engine}"
    lives = {one["life"]: one for one in about["lives"] if one["stream"] == stream}
    if life not in lives:
        raise ConfigError("--life", life, f"a life of {stream}: {', '.join(map(str, lives))}")
    if life == max(lives):
        return SteeredRun(Attached(address, engine))
    history = History(msgspec.convert(about["header"], Header))
    first, head = lives[life]["first"], lives[life]["head"]
    for start in range(first, head + 1, PAGE):
        path = f"/api/runs/{RUN}/events?stream={stream}&life={life}&from={start}"
        lines = _lines.decode(address.get(path + f"&to={min(start + PAGE - 1, head)}"))
        history.extend(decode_event(bytes(line)) for line in lines)
    history.close()
    return FetchedRun(history)


def _newest_life(about: dict[str, Any], stream: str, address: ServerAddress) -> int:
    lives = [life["life"] for life in about["lives"] if life["stream"] == stream]
    if not lives:
        there = sorted({e["stream"] for e in about["lives"] if e["stream"].startswith("engine")})
        raise AttachError(
            f"{address.url} has no {stream}; it has: {', '.join(there) or 'no engine yet'}"
        )
    return max(lives)
