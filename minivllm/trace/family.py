"""Family: the ids of one request of a client, and what all streams tell of them.

One HTTP request may be several in the engine: a batch has one for each prompt (``cmpl-a-0``,
``cmpl-a-1``), and ``n`` samples are each their own (``0_cmpl-a``, ``1_cmpl-a``).

    cmpl-a                    http, sse                 what the client knows
      cmpl-a-0                tokenise                  one prompt
        0_cmpl-a-0  1_cmpl-a-0    route, …, detokenise  what an engine runs

The client knows less: the ``x-request-id`` that it sent (``a``), or the answer's id (``cmpl-a``),
where the server has added eight digits to tell two such clients apart. :meth:`Families.called`
finds these. No counterpart in vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from minivllm.trace.events import Event
from minivllm.trace.file import Trace

_PROMPT = re.compile(r"(.+)-\d+")
_SAMPLE = re.compile(r"\d+_(.+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine took a request in."""

    stream: str
    life: int
    req: str
    request_id: str
    """The one that the engine was sent: of a prompt, or of a sample."""


@dataclass(slots=True)
class Told:
    """All of one family, or of one member with those above it."""

    shared: list[str]
    """The ids of what all of it has in common: the one that was asked for, and those above it."""
    places: list[Place]
    """By clock; the last of each id is the one that ended it."""
    events: list[tuple[str, Event]]
    """(whose, event), by clock. What several share is there for each."""


class Families:
    """The requests of a trace, by their ids."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._parents: dict[str, str] = {}
        self._known: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        """By HTTP."""
        for event in trace.events:
            request_id = getattr(event.data, "request_id", None)
            if request_id is None:
                continue
            self._known[request_id] = None
            if event.kind == "http.request":
                self._asked[request_id] = None
            elif event.kind == "req.arrive" and event.data.parent:
                self._parents[request_id] = event.data.parent
                self._known[event.data.parent] = None

    def called(self, name: str) -> list[str]:
        """The requests that somebody may mean by ``name``: the one of this id, or else those whose
        client has it for theirs."""
        if name in self._known:
            return [name]
        theirs = re.compile(rf"((chat)?cmpl-)?{re.escape(name)}(-[0-9a-f]{{8}})?")
        return [request_id for request_id in self._asked if theirs.fullmatch(request_id)]

    def tops(self) -> list[str]:
        """What clients sent: no prompt of a batch, no sample."""
        return [request_id for request_id in self._known if len(self._line(request_id)) == 1]

    def told(self, request_id: str) -> Told:
        above = self._line(request_id)
        ids = {i for i in self._known if request_id in self._line(i)} | set(above)
        arrivals: list[tuple[int, Place]] = []
        told = Told(above, [], [])
        open_in: dict[tuple[str, int], list[str]] = {}
        awaited: dict[tuple[str, int, int], list[str]] = {}
        for stream in self._trace.engines:
            for life, events in self._trace.epochs(stream).items():
                arrived = [e for e in events if e.kind == "req.arrive"]
                newest = {e.data.request_id: e.req for e in arrived if e.data.request_id in ids}
                names = {req: of for of, req in newest.items()}
                still_open = set(newest)
                for event in events:
                    for of in _whose(event, names, ids):
                        told.events.append((of, event))
                        if event.kind == "req.token":
                            who = awaited.setdefault((stream, life, event.step), [])
                            who += [] if of in who else [of]
                        elif event.kind == "req.finish":
                            still_open.discard(of)
                        elif event.kind == "req.arrive":
                            place = Place(stream, life, str(event.req), of)
                            arrivals.append((event.t_ns, place))
                open_in[stream, life] = [of for of in newest if of in still_open]
        told.places = [place for _, place in sorted(arrivals, key=lambda each: each[0])]
        for event in self._trace.events:
            if event.stream == "api":
                told.events += [(of, event) for of in _of_front(event, ids, open_in, awaited)]
        told.events.sort(key=lambda each: each[1].t_ns)  # stable: as they were told
        return told

    def _line(self, request_id: str) -> list[str]:
        """It, the prompt that it is a sample of, and what the client sent."""
        line = [request_id]
        parent = self._parents.get(request_id)
        if parent is None and (sample := _SAMPLE.fullmatch(request_id)):
            parent = sample[1] if sample[1] in self._known else None
        if parent is not None:
            line.append(parent)
        prompt = _PROMPT.fullmatch(line[-1])
        if prompt and line[-1] not in self._asked and prompt[1] in self._asked:
            line.append(prompt[1])
        return line


def _whose(event: Event, names: dict[str | None, str], ids: set[str]) -> Iterator[str]:
    """Whom of a family an engine's event concerns. ``names``: its names there."""
    if event.req is not None:
        if event.req in names:
            yield names[event.req]
    elif event.kind == "sched.stop":
        yield from (names[r] for r in (event.data.head, *event.data.behind) if r in names)
    elif event.kind.startswith("ipc.") and event.data.request_id in ids:
        yield event.data.request_id


def _of_front(
    event: Event,
    ids: set[str],
    open_in: dict[tuple[str, int], list[str]],
    awaited: dict[tuple[str, int, int], list[str]],
) -> list[str]:
    """The same for the front end's. A message of outputs has no request's name, but the step's
    number; the first of that number brings what the step has said."""
    data = event.data
    if event.kind == "engine.dead":
        return open_in.get((f"engine{data.engine}", data.epoch), [])
    if event.kind == "ipc.recv" and data.of_step is not None:
        return awaited.pop((f"engine{data.engine}", data.epoch, data.of_step), [])
    request_id = getattr(data, "request_id", None)
    return [request_id] if request_id in ids else []
