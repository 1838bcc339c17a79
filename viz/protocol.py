"""The hub: who watches which run, how far each viewer has got, and what to send next.

One thread, the publisher, is the only one that emits (``emit`` is not thread-safe). Everybody else
posts to its mailbox: the socket's handlers, the recorder at each step's end, the command thread.

    viewer → hello {run, epoch, streams: {engine0: {life, seq}}, inflates}    I have these events;
             no streams: all, from the beginning. life: an engine that was started anew writes the
             same stream again, from seq 1 on, as its next life; null: the newest
    hub    → welcome {run, epoch, reset, lives: [{stream, life, first, head}]}
             reset: another run, begin anew
    hub    → lives {run, epoch, lives}            an engine was started, or started anew
    hub    → batch {run, stream, life, epoch, from, to, deflated} + bytes   a JSON array, without a
             gap; deflated once for all, where several viewers can inflate it
    viewer → ack {stream, life, to}
    hub    → lag {stream, life, head, snapshot}                     four batches are unanswered, or
             more than 2,000 events are missing: fetch them by HTTP, then ack the last one
    viewer → show {hidden}         nobody sees the page: it is sent nothing until it is seen again
    viewer → command {id, op, value, engine}       see commands.py; engine: the gate of that one
    hub    → gate {mode, rate, engines: {"1": {mode, rate}}}      engines: each, where several live

Socket.IO keeps no log for a viewer that was away, and its queue per viewer has no bound. So the
log is the recorder's, each viewer has a position in it, and a slow viewer costs four batches at
most. An event is encoded once, by the recorder; a batch joins the lines and goes out as bytes, so
that it is not encoded again; and what several viewers are sent is made once for all (``wire.py``).

A class (``classroom.py``) lives here, too: each message of a page is one turn of this thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from minivllm.trace.log import Life
from viz.classroom import Classroom, Message
from viz.runs import Catalogue, Run
from viz.wire import Frame, Wire

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.033
"""Pause between two rounds: a screen shows nothing faster."""
LONGEST_PAUSE = 0.12
"""Seconds. Longer, and a fast engine's next batch is more than 2,000 events: a lag."""
FRAME_SECONDS = 0.0003
"""What a batch to one viewer takes on other threads: its queue, two writes, the answer read."""
SHARE = 0.1
"""Of one core that viewers may have for all that they look at; the rest is the requests'. With many
viewers, or a round that takes its time, the pause grows until that is so."""
DEFLATE_FROM = 1024
"""Bytes."""
BATCH_BYTES = 64 * 1024
WINDOW = 4
"""Batches a viewer may leave unanswered."""
SNAPSHOT_BEHIND = 2000
"""Events behind from which a snapshot is cheaper than the events themselves."""


@dataclass(slots=True)
class Cursor:
    """A viewer's position in one life of a stream."""

    sent: int
    unanswered: deque[int] = field(default_factory=deque)
    """The last seq of each batch sent and not acked."""
    lagging: bool = False
    """It was told to fetch; nothing is sent until it acks."""


Key = tuple[str, int]
"""(stream, life)"""

Encoded = dict[tuple[str, str, int, int, bool], tuple[int, Frame]]
"""(run, stream, life, where it begins, deflated?) → where it ends, and the batch; of one round."""


@dataclass(slots=True)
class Viewer:
    run_id: str
    epoch: str
    cursors: dict[Key, Cursor]
    chosen: dict[str, Any]
    """The streams it asked for; none: all of them."""
    told: list[Key]
    """The lives that it has been told of."""
    inflates: bool = False


class Hub:
    """The publisher. ``start`` runs it on a thread; tests call ``work`` by hand."""

    def __init__(self, catalogue: Catalogue, wire: Wire) -> None:
        self.catalogue = catalogue
        self._wire = wire
        self.classroom = Classroom(wire.emit_to_each)
        self._mailbox: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self._woken = threading.Event()
        self._viewers: dict[str, Viewer] = {}
        self._hidden: set[str] = set()
        self._sent = 0
        """Batches, in this round."""
        self._thread: threading.Thread | None = None

    # --- for any thread ------------------------------------------------------------------------

    def hello(self, sid: str, message: dict[str, Any]) -> None:
        self._mailbox.put(("hello", sid, message))

    def ack(self, sid: str, stream: str, to: int, life: int | None = None) -> None:
        self._mailbox.put(("ack", sid, stream, to, life))

    def show(self, sid: str, hidden: bool) -> None:
        """Nobody sees this page, or somebody does again."""
        self._mailbox.put(("show", sid, hidden))

    def leave(self, sid: str) -> None:
        self._mailbox.put(("leave", sid))

    def of_class(self, sid: str, message: Message, driver: bool, voter: str | None = None) -> None:
        """What a page says as one of a class; ``driver``: may it lead? ``voter``: whose it is."""
        self._mailbox.put(("class", sid, message, driver, voter))

    def send(self, event: str, payload: Any, to: str | None = None) -> None:
        """Emit something of another kind (engine status, a command's result) in turn."""
        self._mailbox.put(("send", event, payload, to))

    def wake(self, _stream: object = None, _lines: object = None) -> None:
        """There are new events. Called on the engine's thread: one flag, at most one message."""
        if not self._woken.is_set():
            self._woken.set()
            self._mailbox.put(("wake",))

    def run_changed(self, run_id: str) -> None:
        """Another recorder stands behind ``run_id`` now: its viewers begin anew."""
        self._mailbox.put(("changed", run_id))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="viz-publisher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._mailbox.put(("stop",))
        if self._thread is not None:
            self._thread.join(timeout=5)

    # --- on the publisher's thread -------------------------------------------------------------

    def _loop(self) -> None:
        going = True
        while going:
            began = time.thread_time()
            try:
                going = self.work()
            except Exception:  # one viewer's trouble must not end the channel of all others
                logger.exception("the publisher met an error and goes on")
            time.sleep(pause_after(time.thread_time() - began, self._sent))

    def work(self, block: bool = True) -> bool:
        """Take what lies in the mailbox (wait for it if ``block``), then publish. False: stop."""
        messages: list[tuple[Any, ...]] = []
        if block:
            try:
                messages.append(self._mailbox.get(timeout=self.classroom.due_in()))
            except queue.Empty:
                pass  # something of the class has waited long enough
        while True:
            try:
                messages.append(self._mailbox.get_nowait())
            except queue.Empty:
                break
        for message in messages:
            if message[0] == "stop":
                return False
            getattr(self, "_on_" + message[0])(*message[1:])
        self.classroom.flush()
        self._sent = 0
        if messages:
            self._publish()
        return True

    def _on_wake(self) -> None:
        self._woken.clear()  # before reading the log: an event from now on wakes us again

    def _on_send(self, event: str, payload: Any, to: str | None) -> None:
        self._wire.emit(event, payload, to=to)

    def _on_show(self, sid: str, hidden: bool) -> None:
        (self._hidden.add if hidden else self._hidden.discard)(sid)

    def _on_leave(self, sid: str) -> None:
        self._viewers.pop(sid, None)
        self._hidden.discard(sid)
        self.classroom.leave(sid)

    def _on_class(self, sid: str, message: Message, driver: bool, voter: str | None) -> None:
        self.classroom.take(sid, message, driver, voter)

    def _on_hello(self, sid: str, message: dict[str, Any]) -> None:
        run_id = message["run"]
        run = self.catalogue.get(run_id)
        if run is None:
            self._viewers.pop(sid, None)
            self._wire.emit("gone", {"run": run_id}, to=sid)
            return
        epoch, lives = run.epoch(), run.lives()
        same = message.get("epoch") in (None, epoch)
        chosen = message.get("streams", {})
        viewer = self._viewers[sid] = Viewer(run_id, epoch, {}, chosen, keys_of(lives))
        viewer.inflates = message.get("inflates", False)
        for stream, (key, head) in newest(lives).items():
            if not chosen:
                viewer.cursors[key] = Cursor(sent=0)
            elif stream in chosen:
                life, seq = chosen[stream]["life"], chosen[stream]["seq"]
                if not same or life is None:
                    life, seq = key[1], seq if same else 0
                head = next((e.head for e in lives if (e.stream, e.epoch) == (stream, life)), 0)
                viewer.cursors[stream, life] = Cursor(sent=min(max(seq, 0), head))
        self._tell("welcome", sid, run, viewer, {"reset": not same})

    def _tell(self, name: str, sid: str, run: Run, viewer: Viewer, more: dict[str, Any]) -> None:
        lives = lives_json(run)
        self._wire.emit(
            name, {"run": run.id, "epoch": viewer.epoch, "lives": lives, **more}, to=sid
        )

    def _on_changed(self, run_id: str) -> None:
        for sid, viewer in self._viewers.items():
            if viewer.run_id == run_id:
                again = {"run": run_id, "epoch": viewer.epoch, "streams": viewer.chosen}
                self._on_hello(sid, {**again, "inflates": viewer.inflates})

    def _on_ack(self, sid: str, stream: str, to: int, life: int | None) -> None:
        viewer = self._viewers.get(sid)
        if viewer is None:
            return
        if life is None:
            life = max((own for name, own in viewer.cursors if name == stream), default=1)
        cursor = viewer.cursors.get((stream, life))
        if cursor is None:
            return
        while cursor.unanswered and cursor.unanswered[0] <= to:
            cursor.unanswered.popleft()
        if to > cursor.sent:  # it fetched what was missing
            cursor.sent = to
            cursor.unanswered.clear()
        if len(cursor.unanswered) < WINDOW:
            cursor.lagging = False

    def _publish(self) -> None:
        for live in self.catalogue.all():
            if live.kind == "live":
                self.catalogue.keep_snapshots(live)
        encoded: Encoded = {}
        for sid, viewer in list(self._viewers.items()):
            run = self.catalogue.get(viewer.run_id)
            if run is None or run.epoch() != viewer.epoch or sid in self._hidden:
                continue
            lives = run.lives()
            if (keys := keys_of(lives)) != viewer.told:
                if not viewer.chosen:
                    for key, _ in newest(lives).values():
                        viewer.cursors.setdefault(key, Cursor(sent=0))
                viewer.told = keys
                self._tell("lives", sid, run, viewer, {})
            for life in lives:
                cursor = viewer.cursors.get((life.stream, life.epoch))
                if cursor is not None:
                    self._serve(sid, viewer, run, life, cursor, encoded)

    def _serve(
        self,
        sid: str,
        viewer: Viewer,
        run: Run,
        life: Life,
        cursor: Cursor,
        encoded: Encoded,
    ) -> None:
        """Send one viewer what it lacks of one life, as far as its window allows."""
        about = {"run": run.id, "stream": life.stream, "life": life.epoch, "epoch": viewer.epoch}
        while cursor.sent < life.head and not cursor.lagging:
            behind = life.head - cursor.sent
            gone = cursor.sent + 1 < life.first  # it is no longer kept
            if len(cursor.unanswered) >= WINDOW or behind > SNAPSHOT_BEHIND or gone:
                cursor.lagging = True
                late = gone or behind > SNAPSHOT_BEHIND
                self._wire.emit("lag", {**about, "head": life.head, "snapshot": late}, to=sid)
                return
            deflates = viewer.inflates and len(self._viewers) > 1
            key = (run.id, life.stream, life.epoch, cursor.sent, deflates)
            if key not in encoded:  # viewers that stand at the same place share the frame
                to, payload = encode_batch(run, life, cursor.sent + 1)
                about |= {"from": cursor.sent + 1, "to": to}
                if deflates and len(payload) >= DEFLATE_FROM:
                    about["deflated"], payload = True, zlib.compress(payload, 1)
                # The bytes travel as they are, beside the JSON.
                encoded[key] = to, self._wire.frame("batch", about, payload)
            to, frame = encoded[key]
            if to <= cursor.sent:
                return  # the log has let go of this life meanwhile
            self._wire.send(frame, sid)
            self._sent += 1
            cursor.sent = to
            cursor.unanswered.append(to)


def pause_after(took: float, sent: int) -> float:
    """Seconds to rest after a round that took this thread so long and has sent so many batches."""
    cost = took + FRAME_SECONDS * sent
    return min(max(BATCH_SECONDS, cost * (1 - SHARE) / SHARE), LONGEST_PAUSE)


def keys_of(lives: list[Life]) -> list[Key]:
    return [(life.stream, life.epoch) for life in lives]


def newest(lives: list[Life]) -> dict[str, tuple[Key, int]]:
    """Stream → its last life's key and head."""
    return {life.stream: ((life.stream, life.epoch), life.head) for life in lives}


def lives_json(run: Run) -> list[dict[str, Any]]:
    """What a page is told of a run's streams."""
    return [
        {"stream": life.stream, "life": life.epoch, "first": life.first, "head": life.head}
        for life in run.lives()
    ]


def encode_batch(run: Run, life: Life, start: int) -> tuple[int, bytes]:
    """Join lines from ``start`` on until 64 KB are full; returns (last seq, JSON array)."""
    lines = run.lines(life.stream, start, life.head, life.epoch)
    size = taken = 0
    for line in lines:
        size += len(line) + 1
        taken += 1
        if size >= BATCH_BYTES:
            break
    return start + taken - 1, b"[" + b",".join(lines[:taken]) + b"]"
