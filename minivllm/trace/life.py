"""The way of one request over all streams: from the first byte that came to the last that left.

Front end and engine each tell their part on a stream of their own, the one by the request's id, the
other by the engine's name for it (``r3``); ``family.py`` joins the two. :func:`way_of` puts them
together by clock (all streams of a run have one) into an ordered list of hops:

    http → tokenise → route → ipc → queue → prefill → decode → …
                                        sse ← detokenise ← ipc back ← end

What happens many times is one hop with a count: the steps of decoding, the pieces of text, the
chunks of the answer. A request whose first engine died has the hops of both engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minivllm.trace.events import ROUTE_WHYS, Event, GrantWhy
from minivllm.trace.family import Families, Place
from minivllm.trace.file import Trace, life_name
from minivllm.trace.words import count, join


@dataclass(slots=True)
class Hop:
    """One station of the way."""

    name: str
    """``http`` | ``tokenise`` | ``route`` | ``ipc`` | ``queue`` | ``prefill`` | ``decode`` |
    ``preempted`` | ``end`` | ``died`` | ``ipc back`` | ``detokenise`` | ``sse``."""
    t_ns: int
    """Since the run's start."""
    stream: str
    step: int
    ns: int | None = None
    """How long it took, where that was told or can be read off its end."""
    bytes: int | None = None
    tokens: int | None = None
    times: int = 1
    """Steps, messages, pieces of text, chunks."""
    words: str = ""
    of: str = ""
    """Whose, of several prompts or samples."""
    waited: Counter[str] = field(default_factory=Counter)
    """Reason → how many steps it waited for it."""


@dataclass(frozen=True, slots=True)
class Way:
    request_id: str
    places: list[Place]
    """The engines that had it, in order; the last is the one that ended it."""
    hops: list[Hop]

    @property
    def ns(self) -> int:
        """From its first hop to the end of its last."""
        return max((h.t_ns + (h.ns or 0) for h in self.hops), default=0) - self._begin

    @property
    def first_byte_ns(self) -> int | None:
        """From its first hop to the first byte of the answer; of a plain one that is all of it."""
        sent = next((hop for hop in self.hops if hop.name == "sse"), None)
        return None if sent is None else sent.t_ns - self._begin

    @property
    def _begin(self) -> int:
        return self.hops[0].t_ns if self.hops else 0


def way_of(trace: Trace, request_id: str) -> Way:
    """The way of the request of this id; no hops if it is unknown.

    The id of a batch, or of several samples, has the hops of all; one of those has what it shares
    with the others, as the door, and its own.
    """
    told = Families(trace).told(request_id)
    several = len({place.request_id for place in told.places}) > 1
    hops: list[Hop] = []
    walks: dict[str, _Walk] = {}
    for of, event in told.events:
        walk = walks.get(of)
        if walk is None:
            walk = walks[of] = _Walk(hops, of if several and of not in told.shared else "")
        walk.take(event)
    return Way(request_id, told.places, sorted(hops, key=lambda hop: hop.t_ns))


def events_of(trace: Trace, request_id: str) -> list[Event]:
    """What all streams tell of a request, by clock."""
    told = Families(trace).told(request_id)
    return list({(e.stream, e.t_ns, e.seq): e for _, e in told.events}.values())


def way_of_req(trace: Trace, stream: str, life: int, req: str) -> Way:
    """The same, by the engine's name for the request."""
    for event in trace.epochs(stream).get(life, []):
        if event.kind == "req.arrive" and event.req == req:
            return way_of(trace, event.data.request_id)
    return Way("", [], [])


class _Walk:
    """Makes hops of events that come in order."""

    def __init__(self, hops: list[Hop], of: str) -> None:
        self._hops, self._of = hops, of
        self._skipped: tuple[str, int] | None = None  # the last step in which it was passed over
        self._stage: Hop | None = None  # queue, prefill, decode or preempted: what goes on
        self._one: dict[str, Hop] = {}  # hops that are told in many pieces
        self._wire: dict[str, Hop] = {}  # message → its hop, until it has arrived

    def take(self, event: Event) -> None:
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event, event.data)

    def _hop(self, name: str, event: Event, **fields: Any) -> Hop:
        hop = Hop(name, event.t_ns, event.stream, event.step, of=self._of, **fields)
        self._hops.append(hop)
        return hop

    # --- the front end ---------------------------------------------------------------------------

    def http_request(self, event: Event, d: Any) -> None:
        self._hop("http", event, bytes=d.bytes, words=f"{d.method} {d.path}")

    def http_rejected(self, event: Event, d: Any) -> None:
        self._hop("end", event, words=f"refused with {d.status}: {d.message}")

    def tokenize(self, event: Event, d: Any) -> None:
        words = f"{count(d.characters, 'character')} → {count(d.tokens, 'token')}"
        hop = self._hop("tokenise", event, tokens=d.tokens, ns=d.ns, words=words)
        hop.t_ns -= d.ns  # it is told when it is done

    def route(self, event: Event, d: Any) -> None:
        others = [
            f"engine {c.engine}: {c.open_requests} open, {count(c.load_tokens, 'token')} to run, "
            f"{c.cached_tokens} cached"
            for c in d.candidates
        ]
        weighed = f" ({'; '.join(others)})" if len(others) > 1 else ""
        self._hop("route", event, words=f"to engine {d.engine}: {ROUTE_WHYS[d.why]}{weighed}")

    def detokenize(self, event: Event, d: Any) -> None:
        hop = self._one.get("detokenise")
        if hop is None:
            hop = self._one["detokenise"] = self._hop("detokenise", event, ns=0, tokens=0, times=0)
            hop.t_ns -= d.ns
        hop.times += 1
        hop.ns, hop.tokens = (hop.ns or 0) + d.ns, (hop.tokens or 0) + d.tokens
        hop.words = f"{count(hop.tokens, 'token')} in {count(hop.times, 'piece')}"

    def held_back(self, event: Event, d: Any) -> None:
        hop = self._one.get("detokenise")
        if hop is not None:
            hop.waited["held back"] += 1

    def first_byte(self, event: Event, d: Any) -> None:
        self._sent(event)

    def chunk(self, event: Event, d: Any) -> None:
        hop = self._sent(event)
        hop.times += 1
        hop.bytes, hop.tokens = (hop.bytes or 0) + d.bytes, (hop.tokens or 0) + d.tokens
        hop.words = f"{count(hop.times, 'chunk')} with {count(hop.tokens, 'token')}"

    def done(self, event: Event, d: Any) -> None:
        hop = self._sent(event)
        hop.bytes = d.bytes
        hop.words = f"status {d.status}" + (f", {hop.words}" if hop.words else "")

    def _sent(self, event: Event) -> Hop:
        hop = self._one.get("sse")
        if hop is None:
            hop = self._one["sse"] = self._hop("sse", event, times=0)
        hop.ns = event.t_ns - hop.t_ns
        return hop

    def dead(self, event: Event, d: Any) -> None:
        self._close(event)
        self._hop("died", event, words=f"engine {d.engine} died: {d.message}")

    # --- the sockets -----------------------------------------------------------------------------

    def ipc_send(self, event: Event, d: Any) -> None:
        way = f"{d.message} to engine {d.engine}"
        if event.stream != "api":
            way = f"{d.message} from engine {d.engine}"
        self._wire[d.message] = self._hop("ipc", event, bytes=d.bytes, words=way)

    def ipc_recv(self, event: Event, d: Any) -> None:
        if d.of_step is not None:
            self._back(event, d)
            return
        hop = self._wire.pop(d.message, None)
        if hop is None:
            hop = self._hop("ipc", event, bytes=d.bytes, words=d.message)
        hop.ns = d.ns

    def _back(self, event: Event, d: Any) -> None:
        """What a step has said; others' words travel in the same message."""
        hop = self._one.get("ipc back")
        if hop is None:
            hop = self._one["ipc back"] = self._hop("ipc back", event, ns=0, bytes=0, times=0)
            hop.t_ns -= d.ns
        hop.times += 1
        hop.ns, hop.bytes = (hop.ns or 0) + d.ns, (hop.bytes or 0) + d.bytes
        hop.words = f"{count(hop.times, 'message')} from engine {d.engine}"

    # --- the engine ------------------------------------------------------------------------------

    def _begin(self, name: str, event: Event, **fields: Any) -> Hop:
        self._close(event)
        self._stage = self._hop(name, event, times=0, **fields)
        return self._stage

    def _close(self, event: Event) -> None:
        stage, self._stage = self._stage, None
        if stage is None:
            return
        stage.ns = event.t_ns - stage.t_ns
        if stage.times:
            ran = f"{count(stage.tokens or 0, 'token')} in {count(stage.times, 'step')}"
            stage.words = ", ".join(filter(None, (stage.words, ran)))
        if stage.waited:
            reasons = [f"{reason} ×{n}" for reason, n in stage.waited.items()]
            stage.words = ", ".join(filter(None, (stage.words, f"waits for {join(reasons)}")))

    def arrive(self, event: Event, d: Any) -> None:
        self._begin("queue", event, words=f"{event.req} on {event.stream}")

    def admit(self, event: Event, d: Any) -> None:
        reused = f"{d.hit} of {count(d.tokens, 'token')} reused" if d.hit else ""
        self._begin("prefill", event, tokens=0, words=reused)

    def grant(self, event: Event, d: Any) -> None:
        if d.why is GrantWhy.DECODE and self._stage is not None and self._stage.name == "prefill":
            self._begin("decode", event, tokens=0)  # it had said something before it resumed
        if self._stage is not None:
            self._stage.times += 1
            self._stage.tokens = (self._stage.tokens or 0) + d.n

    def skip(self, event: Event, d: Any) -> None:
        if self._stage is not None and self._stage.name in ("queue", "preempted"):
            self._stage.waited[d.reason.value] += 1
        self._skipped = (event.stream, event.step)

    def stop(self, event: Event, d: Any) -> None:
        if self._skipped != (event.stream, event.step):  # its own reason was not told before
            self.skip(event, d)

    def first_token(self, event: Event, d: Any) -> None:
        self._begin("decode", event, tokens=0)

    def preempt(self, event: Event, d: Any) -> None:
        lost = f"{count(d.tokens_lost, 'computed token')} lost"
        self._begin("preempted", event, words=lost)

    def finish(self, event: Event, d: Any) -> None:
        self._close(event)
        said = count(d.output_tokens, "token")
        self._hop("end", event, tokens=d.output_tokens, words=f"{d.reason} after {said}")


_HANDLERS: dict[str, Callable[[_Walk, Event, Any], None]] = {
    "http.request": _Walk.http_request,
    "http.rejected": _Walk.http_rejected,
    "http.first_byte": _Walk.first_byte,
    "http.chunk": _Walk.chunk,
    "http.done": _Walk.done,
    "req.tokenize": _Walk.tokenize,
    "req.detokenize": _Walk.detokenize,
    "req.held_back": _Walk.held_back,
    "route.pick": _Walk.route,
    "ipc.send": _Walk.ipc_send,
    "ipc.recv": _Walk.ipc_recv,
    "engine.dead": _Walk.dead,
    "req.arrive": _Walk.arrive,
    "req.admit": _Walk.admit,
    "req.resume": _Walk.admit,
    "sched.grant": _Walk.grant,
    "sched.skip": _Walk.skip,
    "sched.stop": _Walk.stop,
    "req.first_token": _Walk.first_token,
    "req.preempt": _Walk.preempt,
    "req.finish": _Walk.finish,
}


def lines_of(way: Way) -> list[str]:
    """A headline, and a line for each hop: when it began, its name, its bytes, how long it took."""
    places: dict[str, list[str]] = {}
    for place in way.places:
        where = f"{place.req} on {life_name(place.stream, place.life)}"
        places.setdefault(place.request_id, []).append(where)
    engines = [", then ".join(each) for each in places.values()]
    begun = way.first_byte_ns
    where = join(engines) if engines else "no engine had it"
    first = "" if begun is None else f" · first byte after {begun / 1e6:.3f} ms"
    return [
        f"{way.request_id}: {where}{first} · {way.ns / 1e6:.3f} ms in all",
        *(
            f"{(hop.t_ns - way.hops[0].t_ns) / 1e6:>10.3f} ms  {hop.name:<11}{_size(hop):>9}"
            f"{_took(hop):>13}  {hop.words}{_held(hop)}{_of(hop)}"
            for hop in way.hops
        ),
    ]


def _of(hop: Hop) -> str:
    return f" [{hop.of}]" if hop.of else ""


def _size(hop: Hop) -> str:
    return "" if hop.bytes is None else f"{hop.bytes} B"


def _took(hop: Hop) -> str:
    return "" if hop.ns is None else f"{hop.ns / 1e6:.3f} ms"


def _held(hop: Hop) -> str:
    held = hop.waited.get("held back", 0) if hop.name == "detokenise" else 0
    return f", text held back {held} times" if held else ""
