"""Verify: a trace is run again, and each event of the new run must be the recorded one.

Compared are the structural forms (``trace/structural.py``): the decisions, without times, source
lines and callers' ids. A kind of a later version is noted and not compared: this engine cannot tell
it. The first event that differs ends it, so what is told is the cause and not what came of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from minivllm.config import EngineConfig
from minivllm.engine.engine_core import EngineCore
from minivllm.executor.base import Executor
from minivllm.replay.executors import RecordedExecutor
from minivllm.replay.grammars import RecordedGrammars
from minivllm.replay.model import grammar_of
from minivllm.replay.recording import Recording, apply_input, ran, sources_of
from minivllm.trace.events import KINDS, Event
from minivllm.trace.file import decode_event
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.say import other_fields, say
from minivllm.trace.structural import is_structural, structural_fields
from minivllm.trace.texts import TokenText
from minivllm.trace.words import count, join

Fields = Callable[[Event], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event that is not as it was recorded; None on a side that has no more in the
    step."""

    step: int
    recorded: Event | None
    now: Event | None
    source: str | None
    """Where in the code the new one was emitted (the recorded one, where there is no new one)."""
    failure: str | None = None
    """The new run broke off here."""
    token: str | None = None
    """The first output token that is another one, in words."""

    def lines(self) -> list[str]:
        """It in words."""
        nothing = "nothing more in this step"
        lines = [
            f"recorded: {say(self.recorded) if self.recorded else nothing}",
            f"now:      {say(self.now) if self.now else self.failure or nothing}",
        ]
        if self.token:
            lines.append(f"token:    {self.token}")
        elif self.recorded and self.now and self.recorded.kind == self.now.kind:
            fields = other_fields(self.recorded, self.now)
            if fields:
                lines.append(f"fields:   {', '.join(fields)}")
        if self.source:
            lines.append(f"told by:  {self.source}")
        return lines


@dataclass(slots=True)
class Verdict:
    """What became of one engine's stream."""

    recording: Recording
    num_events: int = 0
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)


def verify(
    recording: Recording,
    executor: Callable[[EngineConfig], Executor] | None = None,
    text: TokenText | None = None,
    with_logprobs: bool = True,
) -> Verdict:
    """Run the recording again and compare, event by event.

    Without ``executor`` the recorded tokens take the model's place. ``with_logprobs=False`` leaves
    out the last bits of what a model computed.
    """
    verdict = Verdict(recording, notes=_notes(recording))
    fields: Fields = structural_fields if with_logprobs else _without_logprobs
    again = Again(recording, executor, text)
    try:
        for step, events in recording.steps.items():
            recorded = [e for e in events if is_structural(e) and e.kind in KINDS]
            now = [event for event in again.step(step) if is_structural(event)]
            for old, new in zip_longest(recorded, now):
                if old is None or new is None or fields(old) != fields(new):
                    told_by = again.sources.get(new.src) if new else None
                    if new is None and old is not None:
                        told_by = recording.sources.get(old.src)
                    token = _other_token(recording, old, new)
                    verdict.difference = Difference(step, old, new, told_by, again.failure, token)
                    return verdict
                verdict.num_events += 1
            if again.failure:
                verdict.difference = Difference(step, None, None, None, again.failure)
                return verdict
    finally:
        again.close()
    return verdict


class Again:
    """The recorded inputs on a fresh engine core, one recorded step after the other."""

    def __init__(
        self,
        recording: Recording,
        executor: Callable[[EngineConfig], Executor] | None = None,
        text: TokenText | None = None,
    ) -> None:
        self.recording = recording
        self.failure: str | None = None
        """Set when the engine broke off: the last step is then cut short."""
        self.sources: dict[int, str] = {}
        """``src`` → ``file:line function``, of this run."""
        self._lines: list[bytes] = []
        self._ids: dict[str, str] = {}
        log = TraceLog(recording.header, retention=0)
        log.subscribe(lambda stream, lines: self._lines.extend(lines))
        config = recording.config
        stand_in = executor(config) if executor else RecordedExecutor(config, recording)
        self._trace = Recorder(log, recording.stream, text or recording.text)
        grammars = RecordedGrammars(recording, grammar_of(stand_in))
        self._core = EngineCore(config, stand_in, self._trace, grammars)
        grammars.next_step = lambda: self._core.scheduler.current_step + 1

    def step(self, number: int) -> list[Event]:
        """Apply the step's inputs, and run it if it ran; returns what was told."""
        try:
            for given in self.recording.inputs[number]:
                apply_input(self._core, given, self._ids)
            if ran(self.recording.steps[number]):
                self._core.step()
        except Exception as error:  # a defect that came since: the answer, not an accident
            self.failure = f"the engine fails with {type(error).__name__}: {error}"
        self._trace.flush()
        events = [decode_event(line) for line in self._lines]
        self._lines.clear()
        self.sources.update(sources_of(events))
        return events

    def close(self) -> None:
        self._core.executor.shutdown()


def _other_token(recording: Recording, old: Event | None, new: Event | None) -> str | None:
    """Only between two ``sample`` events: both sides ran the same and say something else."""
    if old is None or new is None or not old.kind == new.kind == "sample":
        return None
    for one, other in zip(old.data.rows, new.data.rows, strict=False):
        if (one.req, one.token_id) != (other.req, other.token_id):
            said = sum(
                row.req == one.req
                for step, events in recording.steps.items()
                for event in events
                if event.kind == "sample" and step < old.step
                for row in event.data.rows
            )
            return (
                f"output token {said + 1} of {one.req} was {one.text!r} ({one.token_id}) and is "
                f"now {other.text!r} ({other.token_id})"
            )
    return None


def _without_logprobs(event: Event) -> dict[str, Any]:
    fields = structural_fields(event)
    if event.kind == "sample":
        for row in fields["data"]["rows"]:
            for name in ("logprob", "rank", "before", "after", "processors"):
                row.pop(name, None)
    return fields


def _notes(recording: Recording) -> list[str]:
    notes = []
    if recording.torn_step is not None:
        notes.append(
            f"step {recording.torn_step} was begun and not ended: it is not compared "
            "(the process was killed in it, or the engine failed)"
        )
    kinds = {e.kind for events in recording.steps.values() for e in events if is_structural(e)}
    if unknown := sorted(kinds - KINDS.keys()):
        notes.append(
            f"not compared, as this version does not know {'it' if len(unknown) == 1 else 'them'}: "
            f"{join(unknown)} (the trace is {recording.header.schema})"
        )
    if recording.open_reqs:
        reqs = recording.open_reqs
        verb = "has" if len(reqs) == 1 else "have"
        notes.append(
            f"the recording ends before its requests do: {join(reqs)} {verb} no end "
            f"({count(len(reqs), 'request')})"
        )
    return notes
