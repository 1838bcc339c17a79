"""Inputs: what two runs were told, and where. A part of ``diff.py``, which says what came of it.

An input is what came to the engine from outside: a request, its caller going away, a reset of the
prefix cache. One is the engine's own doing by half: a request that is called back because its text
has a stop string. The front end finds that while the engine runs on, so of two equal runs one may
be told after two tokens and the other after three. It counts as another input where the text was
the same and the word came otherwise; where another text was said, the token is the cause.

Here, too: where a trace tells no more though its run went on (``breaks_off``).
"""

from __future__ import annotations

from dataclasses import dataclass

from minivllm.trace.events import Event, Reason
from minivllm.trace.file import Trace
from minivllm.trace.words import as_json, count, join


@dataclass(frozen=True, slots=True)
class InputPair:
    """A request or another input that came at another time, or in one run only."""

    step: int
    words: str


def arrivals(trace: Trace) -> dict[str, Event]:
    return {str(e.req): e for e in trace.engine_events if e.kind == "req.arrive"}


def input_pairs(a: Trace, b: Trace) -> list[InputPair]:
    """What was not told to both at the same step, in order of steps."""
    pairs: list[InputPair] = []
    ours, theirs = _said(a), _said(b)
    for words in dict.fromkeys([*ours, *theirs]):
        first, second = ours.get(words), theirs.get(words)
        if first == second:
            continue
        if first is None or second is None:
            step = first if first is not None else second
            which = "A" if second is None else "B"
            pairs.append(InputPair(step or 0, f"{words} in step {step}, in {which} only"))
        else:
            where = f"{words} in step {first} in A, in step {second} in B"
            pairs.append(InputPair(min(first, second), where))
    requests, others = arrivals(a), arrivals(b)
    for req, event in requests.items():
        for name in ("params", "priority", "cache_salt") if req in others else ():
            one, other = getattr(event.data, name), getattr(others[req].data, name)
            if one != other:
                words = f"{req} has {name} {as_json(one)} in A, {as_json(other)} in B"
                pairs.append(InputPair(event.step, words))
    pairs += _stop_pairs(a, b)
    ends = [end for end in (breaks_off(a), breaks_off(b)) if end is not None]
    told = min((end.step for end in ends), default=max(a.last_step, b.last_step))
    return sorted((p for p in pairs if p.step <= told), key=lambda pair: pair.step)


def _said(trace: Trace) -> dict[str, int]:
    """Input in words → its step. A knob's change is a knob, not an input, here; who is called back
    for its text: ``_stop_pairs``."""
    said: dict[str, int] = {}
    resets = 0
    for event in trace.engine_events:
        if event.kind != "core.input" or event.data.op == "set_knobs":
            continue
        if event.data.op == "add":
            said[f"{event.req} arrives"] = event.step
        elif event.data.op == "abort":
            if event.data.why != Reason.STOP_STRING:
                why = event.data.why.value if event.data.why else ""
                said[f"{event.req} is called back ({why})"] = event.step
        else:
            resets += 1
            said[f"{event.data.op} number {resets}"] = event.step
    return said


# --- called back for its text ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stop:
    step: int
    num_tokens: int
    """Output tokens it had said by then."""
    lag: int
    """Steps since it said the last of them."""


def _stop_pairs(a: Trace, b: Trace) -> list[InputPair]:
    pairs: list[InputPair] = []
    outputs = _outputs(a), _outputs(b)
    stops = _stops(a, outputs[0]), _stops(b, outputs[1])
    for req in sorted(stops[0].keys() | stops[1].keys()):
        one, other = stops[0].get(req), stops[1].get(req)
        until = min(stop.num_tokens for stop in (one, other) if stop is not None)
        said = [[e.data.token_id for e in side.get(req, [])[:until]] for side in outputs]
        if said[0] != said[1]:  # another text, or the other run did not come so far
            continue
        words = f"{req} is called back for its text"
        if one is None or other is None:
            stop, which = (one, "A") if other is None else (other, "B")
            assert stop is not None  # req is a key of one of the two
            words += f" in step {stop.step}, in {which} only"
            pairs.append(InputPair(stop.step, words))
        elif (one.num_tokens, one.lag) != (other.num_tokens, other.lag):
            words += (
                f" after {count(one.num_tokens, 'token')} in A, in step {one.step}; "
                f"after {count(other.num_tokens, 'token')} in B, in step {other.step}"
            )
            pairs.append(InputPair(min(one.step, other.step), words))
    return pairs


def _outputs(trace: Trace) -> dict[str, list[Event]]:
    outputs: dict[str, list[Event]] = {}
    for event in trace.engine_events:
        if event.kind == "req.token":
            outputs.setdefault(str(event.req), []).append(event)
    return outputs


def _stops(trace: Trace, outputs: dict[str, list[Event]]) -> dict[str, _Stop]:
    stops: dict[str, _Stop] = {}
    for event in trace.engine_events:
        if event.kind == "req.finish" and event.data.why == Reason.STOP_STRING:
            said = outputs.get(str(event.req), [])
            lag = event.step - said[-1].step if said else 0
            stops[str(event.req)] = _Stop(event.step, len(said), lag)
    return stops


# --- where a trace tells no more ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class End:
    """The last whole step of a trace whose run had not ended there, and that in words."""

    step: int
    words: str


def breaks_off(trace: Trace) -> End | None:
    """None where the trace tells of its run to the end."""
    events = trace.steps.get(trace.last_step, [])
    kinds = {event.kind for event in events}
    torn = "step.begin" in kinds and "step.end" not in kinds
    ended = {str(e.req) for e in trace.engine_events if e.kind == "req.finish"}
    still = [req for req in arrivals(trace) if req not in ended]
    if not torn and not still:
        return None
    step = trace.last_step - 1 if torn else trace.last_step
    died = next((e.data for e in events if e.kind == "run.error" and e.phase != "execute"), None)
    if died is not None:
        return End(step, f"tells of no step after {step}: its engine failed ({died.error})")
    whose = f", with {join(still)} not at an end" if still else ""
    why = "it was cut, or its engine was stopped"
    return End(step, f"tells of no step after {step}{whose}: {why}")
