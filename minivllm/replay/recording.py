"""Recording: one engine's stream, taken apart into what it takes to run it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from minivllm.config import EngineConfig, make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import DuplicateRequestError, ReplayError
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Event, Header, Reason, ReqArrive, SampleRow
from minivllm.trace.file import Trace
from minivllm.trace.texts import CONTEXT


@dataclass(frozen=True, slots=True)
class Input:
    """One message that the core consumed."""

    op: str
    req: str | None
    why: Reason | None = None
    arrive: ReqArrive | None = None
    knobs: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    header: Header
    stream: str
    config: EngineConfig
    steps: dict[int, list[Event]]
    """Whole steps only, without their sources. Key 0 has what came before any; the last may hold
    inputs alone, after which nothing ran."""
    inputs: dict[int, list[Input]]
    """Step → what was applied before it."""
    torn_step: int | None = None
    """A step that was begun and not ended: the process was killed in it, or the engine died."""
    open_reqs: list[str] = field(default_factory=list)
    """Requests that had not ended where the recording does."""
    sources: dict[int, str] = field(default_factory=dict)
    """``src`` → ``file:line function``."""
    texts: dict[tuple[int, ...], str] = field(default_factory=dict)
    """A token's id behind those before it → its text there, as far as the trace tells."""

    @property
    def last_step(self) -> int:
        return max((n for n, events in self.steps.items() if ran(events)), default=0)

    def text(self, token_id: int, before: Sequence[int] = ()) -> str:
        """Of a token that the recording has in another place only, its text there."""
        here = self.texts.get((*before[-CONTEXT:], token_id))
        return self.texts.get((token_id,), "·") if here is None else here

    def rows(self) -> dict[str, list[SampleRow]]:
        """What each request said, by index of the output token."""
        rows: dict[str, list[SampleRow]] = {}
        for events in self.steps.values():
            for event in events:
                for row in event.data.rows if event.kind == "sample" else ():
                    rows.setdefault(row.req, []).append(row)
        return rows


def ran(events: list[Event]) -> bool:
    return any(event.kind == "step.begin" for event in events)


def sources_of(events: list[Event]) -> dict[int, str]:
    """``src`` → ``file:line function``."""
    return {
        event.data.src: f"{event.data.file}:{event.data.line} {event.data.function}"
        for event in events
        if event.kind == "run.source"
    }


def read_recording(trace: Trace, stream: str) -> Recording:
    """One engine's part of a trace. Raises ReplayError where it does not suffice to run again."""
    events = [event for event in trace.events if event.stream == stream]
    _check_that_it_suffices(trace, stream, events)
    steps: dict[int, list[Event]] = {}
    for event in events:
        if event.kind != "run.source" and not _is_last_word(event):
            steps.setdefault(event.step, []).append(event)
    torn = max(steps)
    whole = not ran(steps[torn]) or any(event.kind == "step.end" for event in steps[torn])
    if not whole:
        del steps[torn]
    _check_that_params_are_known(trace.name, events)
    config = next(event.data for event in events if event.kind == "run.config")
    return Recording(
        header=trace.header,
        stream=stream,
        config=make_config(**msgspec.to_builtins(config), seed=trace.header.seed),
        steps=steps,
        inputs={step: inputs_of(of_step) for step, of_step in steps.items()},
        torn_step=None if whole else torn,
        open_reqs=_open_requests(steps),
        sources=sources_of(events),
        texts=_texts(steps),
    )


def apply_input(core: EngineCore, given: Input, ids: dict[str, str]) -> str | None:
    """Say it to the core again. Returns the core name of a request that is new. ``ids``: its name
    in the recording → caller's id, of those taken in so far."""
    name = None
    if given.arrive is not None:
        message = _message(given.arrive)
        try:
            name = core.add_request(message)
        except DuplicateRequestError:
            # A fork that is slower than its original may not be done with the id's first owner.
            other = f"{message.request_id}-{given.req}"
            message = msgspec.structs.replace(message, request_id=other)
            name = core.add_request(message)
        ids[str(given.req)] = message.request_id
    elif given.op == "abort":
        core.abort_request(ids[str(given.req)], given.why or Reason.CLIENT)
    elif given.op == "reset_prefix_cache":
        core.reset_prefix_cache()
    elif given.op == "set_knobs":
        core.set_knobs(**given.knobs)
    else:
        raise ReplayError(f"an input {given.op!r} is of a later version and cannot be applied")
    core.take_outputs()
    return name


def _check_that_it_suffices(trace: Trace, stream: str, events: list[Event]) -> None:
    name = f"{trace.name}, {stream}" if len(trace.engines) > 1 else trace.name
    cannot = f"{name} cannot be run again"
    if not events:
        raise ReplayError(f"{cannot}: it has no engine's events")
    if not any(event.kind == "run.config" for event in events):
        raise ReplayError(
            f"{cannot}: its beginning was cut off (it starts in step {events[0].step}), and with "
            "it the requests and blocks that the rest goes on from. Record without a limit to what "
            "is kept"
        )
    if trace.header.redacted:
        raise ReplayError(
            f"{cannot}: it was redacted, so what was said is not in it, and without the tokens no "
            "prefix can be found. Record without redaction"
        )


def _check_that_params_are_known(name: str, events: list[Event]) -> None:
    for event in events:
        if event.kind == "req.arrive":
            try:
                _message(event.data)
            except (msgspec.ValidationError, ValueError) as error:
                raise ReplayError(
                    f"{name} cannot be run again: event {event.seq}, {event.req} arrives with "
                    f"parameters that it cannot have had ({error}); the file was altered"
                ) from error


def _is_last_word(event: Event) -> bool:
    """An error of the engine's loop itself, told when its last step had ended."""
    return event.kind == "run.error" and event.phase != "execute"


def inputs_of(events: list[Event]) -> list[Input]:
    """Of a step: what was applied before it."""
    inputs: list[Input] = []
    for event in events:
        if event.kind == "core.input" and event.data.op.startswith("grammar_"):
            continue  # comes by itself (``grammars.py``)
        if event.kind == "core.input":
            inputs.append(Input(event.data.op, event.req, event.data.why))
        elif event.kind == "req.arrive":
            inputs[-1] = Input("add", event.req, arrive=event.data)
        elif event.kind == "run.knob":
            inputs[-1].knobs[event.data.name] = event.data.value
    return inputs


def _open_requests(steps: dict[int, list[Event]]) -> list[str]:
    names: dict[str, None] = {}
    for events in steps.values():
        for event in events:
            if event.kind == "req.arrive":
                names[str(event.req)] = None
            elif event.kind == "req.finish":
                names.pop(str(event.req), None)
    return list(names)


def _message(arrive: ReqArrive) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=arrive.request_id,
        prompt_token_ids=arrive.prompt_token_ids,
        sampling_params=msgspec.convert(arrive.params, SamplingParams, str_keys=True),
        eos_token_id=arrive.eos_token_id,
        priority=arrive.priority,
        cache_salt=arrive.cache_salt,
        parent=arrive.parent,
    )


def _texts(steps: dict[int, list[Event]]) -> dict[tuple[int, ...], str]:
    texts: dict[tuple[int, ...], str] = {}
    said: dict[str, list[int]] = {}  # request → its tokens so far

    def note(req: str, token_id: int, text: str) -> None:
        before = said.setdefault(req, [])
        place = (*before[-CONTEXT:], token_id)
        texts[place] = text
        texts.setdefault((token_id,), text)
        before.append(token_id)

    for events in steps.values():
        for event in events:
            if event.kind == "req.arrive":
                said[str(event.req)] = []
                for token_id, text in zip(event.data.prompt_token_ids, event.data.texts):  # noqa: B905
                    note(str(event.req), token_id, text)
            elif event.kind == "sample":
                for row in event.data.rows:
                    note(row.req, row.token_id, row.text)
                    alone = [(c.token_id, c.text) for c in [*row.before, *row.after]]
                    for effect in row.processors:
                        alone += zip(effect.token_ids, effect.texts, strict=False)
                    texts.update(((token_id,), text) for token_id, text in alone)
    return texts
