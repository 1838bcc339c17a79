"""Write the vectors that hold the Python and the JavaScript fold and story to the same results.

    python -m tests.vectors.make

Each file: events in wire form, the state after every step, the story of every step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from minivllm.engine.messages import EngineCoreRequest
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import Scenario, ScenarioRun, load_scenario, start
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.fold import apply, new_state, to_json
from minivllm.trace.front import Front
from minivllm.trace.front import apply as apply_to_front
from minivllm.trace.life import way_of
from minivllm.trace.metrics import measure
from minivllm.trace.story import story
from tests.helpers import trace_of
from tests.replay.builders import forked
from tests.structured.fakes import AnyToken, ScriptedGrammars
from tests.two_engines import TwoEngines

HERE = Path(__file__).parent


def tiny_pressure() -> ScenarioRun:
    return start(load_scenario("tiny-pressure")).run()


def no_caching() -> ScenarioRun:
    return start(load_scenario("tiny-pressure"), enable_prefix_caching=False).run()


def static_contiguous() -> ScenarioRun:
    """The engines of old: a batch that nobody joins, sequences in one piece, gaps."""
    old = {
        "batching": "static",
        "enable_prefix_caching": False,
        "kv_manager_cls": "contiguous",
        "contiguous_reserve": "request",
    }
    return start(load_scenario("tiny-pressure"), **old, num_kv_blocks=14).run()


def speculation() -> ScenarioRun:
    """Drafts that are right, wrong, cut by the end, and dropped by a preemption."""
    engine = {
        "num_kv_blocks": 8,
        "block_size": 4,
        "max_num_batched_tokens": 12,
        "max_num_seqs": 4,
        "max_model_len": 64,
        "speculative_ngram": 3,
    }
    scenario = Scenario(name="speculation", engine=engine, request=[])
    says = {"r1": [5, 6, 7, 8], "r2": [1, 2, 3, 1, 2, 9], "r3": [4]}

    def next_token(req_id: str, index: int) -> int:
        return says[req_id][index % len(says[req_id])]

    run = start(scenario, executor=lambda config: ScriptedExecutor(config, next_token))
    for i in (1, 2, 3):
        run.core.add_request(request(f"q{i}", 3, 14, 0))
    while run.core.has_requests():
        run.core.step()
    return run


def grammars() -> ScenarioRun:
    """Grammars that are ready soon, late, never; one is called off, one request is preempted."""
    engine = {
        "num_kv_blocks": 8,
        "block_size": 4,
        "max_num_batched_tokens": 12,
        "max_num_seqs": 3,
        "max_model_len": 64,
    }
    source = ScriptedGrammars(
        {
            "r1": (2, AnyToken()),
            "r3": (5, AnyToken()),
            "r4": (4, "structured_outputs.regex must be smaller"),
            "r5": (99, AnyToken()),
        }
    )
    scenario = Scenario(name="grammars", engine=engine, request=[])
    run = start(scenario, grammars=source)
    source.step = lambda: run.core.scheduler.current_step + 1
    for i in range(1, 6):
        form = None if i == 2 else StructuredOutputsParams(regex="a+")
        run.core.add_request(request(f"q{i}", 4, 13, 0, form))
    while run.core.has_requests():
        if run.core.scheduler.current_step == 5:
            run.core.abort_request("q5", Reason.CLIENT)
        run.core.step()
    return run


def priorities_aborts_reset() -> ScenarioRun:
    """What tiny-pressure lacks: priorities, a refund, aborts, a refusal, a failed step, a reset."""
    engine = {
        "policy": "priority",
        "num_kv_blocks": 12,
        "block_size": 4,
        "max_num_batched_tokens": 16,
        "max_num_seqs": 4,
        "max_model_len": 64,
        "long_prefill_token_threshold": 5,
        "watermark": 0.1,
    }
    scenario = Scenario(name="priorities-aborts-reset", engine=engine, request=[])

    def next_token(req_id: str, index: int) -> int:
        if (req_id, index) == ("r9", 1):
            raise RuntimeError("no token for r9")
        return counting_tokens(req_id, index)

    run = start(scenario, executor=lambda config: ScriptedExecutor(config, next_token))
    for i, priority in enumerate([3, 1, 2, 0, 2], start=1):
        run.core.add_request(request(f"q{i}", 6 + 3 * i, 8 + 4 * i, priority))
        run.core.step()
    run.core.add_request(request("longer-than-the-pool", 50, 4, 0))
    run.core.add_request(request("outgrows-the-pool", 40, 20, 5))
    while run.core.has_requests():
        if run.core.scheduler.current_step == 12:
            run.core.abort_request("q3", Reason.STOP_STRING)
            run.core.abort_request("q1", Reason.CLIENT)
        run.core.step()
    run.core.reset_prefix_cache()
    for i in (8, 9):
        run.core.add_request(request(f"q{i}", 12, 3, 0))
    while run.core.has_requests():
        run.core.step()
    return run


def knobs_changed() -> ScenarioRun:
    """What a fork does: other knobs between two steps; the queue takes another order."""
    engine = load_scenario("tiny-pressure").engine
    run = start(Scenario(name="knobs-changed", engine=engine, request=[]))
    for i, priority in enumerate([0, 2, 0, 1, 3, 0, 1], start=1):
        run.core.add_request(request(f"q{i}", 9 + 2 * i, 12, priority))
    for _ in range(2):
        run.core.step()
    run.core.set_knobs(policy="priority", max_num_seqs=1, watermark=0.2)
    for _ in range(6):
        run.core.step()
    run.core.set_knobs(policy="fcfs", max_num_seqs=3, enable_chunked_prefill=True)
    while run.core.has_requests():
        run.core.step()
    return run


def request(
    request_id: str,
    num_prompt: int,
    max_tokens: int,
    priority: int,
    form: StructuredOutputsParams | None = None,
) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=[100 + i for i in range(num_prompt)],
        sampling_params=SamplingParams(
            max_tokens=max_tokens, ignore_eos=True, structured_outputs=form
        ),
        priority=priority,
    )


def later_minor() -> Trace:
    """What a later minor version may write: reasons, kinds of work, events that we do not know."""
    trace, events = trace_of(tiny_pressure()), []
    words = {"no_free_blocks": "bad_weather", "nothing_waits": "all_asleep", "decode": "dream"}
    for event in trace.events:
        line = msgspec.json.encode(event).decode()
        for word, later in words.items():
            line = line.replace(f'"{word}"', f'"{later}"')
        events.append(decode_event(line.encode()))
        if event.kind == "step.begin":
            dream = {"of": ["r1", {"blocks": 3}]}
            events.append(msgspec.structs.replace(event, kind="sched.dream", data=dream))
    numbered = [msgspec.structs.replace(e, seq=i) for i, e in enumerate(events, start=1)]
    return Trace(msgspec.structs.replace(trace.header, schema=LATER), numbered)


def cut_to_its_last_steps() -> Trace:
    """What a server with a retention of 5 steps leaves: a snapshot, and the steps after it."""
    run = start(load_scenario("tiny-pressure"), retention=5).run()
    log = run.recorder.log
    lines = log.lines("engine0", 1, log.head_seq("engine0"))
    return Trace(log.header, [decode_event(line) for line in lines])


def forked_in_its_fifth_step() -> Trace:
    """Two at once from step 5 on, where three run: a reader's "what if"."""
    return forked(trace_of(tiny_pressure()), at_step=5, max_num_seqs=2)


LATER = "minivllm.trace/1.7"

VECTORS: dict[str, Callable[[], ScenarioRun]] = {
    "tiny-pressure": tiny_pressure,
    "no-caching": no_caching,
    "static-contiguous": static_contiguous,
    "speculation": speculation,
    "grammars": grammars,
    "priorities-aborts-reset": priorities_aborts_reset,
    "knobs-changed": knobs_changed,
}

TRACES: dict[str, Callable[[], Trace]] = {
    "later-minor": later_minor,
    "last-steps": cut_to_its_last_steps,
    "forked": forked_in_its_fifth_step,
}
"""Vectors that are no whole run of this version."""


def wire(event: Event) -> dict[str, Any]:
    """An event as it stands in a line, without what differs from run to run."""
    plain: dict[str, Any] = msgspec.to_builtins(event)
    plain["t_ns"] = plain["src"] = 0
    for field in plain["data"]:
        if field == "ns" or field.endswith("_ns"):
            plain["data"][field] = 0
    return plain


def vector(trace: Trace) -> dict[str, Any]:
    state = new_state()
    steps: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    seq = 0
    for number, step_events in trace.steps.items():
        opening = number == 0 or step_events[0].kind == "run.snapshot"
        told = None if opening else story(state, step_events)
        for event in step_events:
            if event.kind == "run.source":
                continue
            seq += 1
            if event.kind == "run.snapshot":
                data = msgspec.structs.replace(event.data, sources=[])
                event = msgspec.structs.replace(event, data=data)
            event = msgspec.structs.replace(event, seq=seq)
            apply(state, event)
            events.append(wire(event))
        steps.append(
            {
                "step": number,
                "state": json.loads(json.dumps(to_json(state))),
                "headline": told.headline if told else None,
                "also": told.also if told else None,
            }
        )
    return {"events": events, "steps": steps}


def make(name: str) -> str:
    trace = TRACES[name]() if name in TRACES else trace_of(VECTORS[name]())
    text = json.dumps(vector(trace), ensure_ascii=False, separators=(",", ":"))
    return text + "\n"


FRONT = HERE.parent / "data" / "front.json"


def make_front() -> str:
    """Of a server with two engines: what its front end told, and the state after each event."""
    front, told = Front(), []
    for event in TwoEngines().run().trace().events:
        if event.stream == "api" and event.kind != "run.source":
            apply_to_front(front, event)
            told.append({"event": wire(event), "state": msgspec.to_builtins(front)})
    # A state is long and mostly as it was: every eighth, and the last.
    for i, row in enumerate(told[:-1]):
        if i % 8:
            del row["state"]
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n"


WAYS = HERE.parent / "data" / "ways.json"


def make_ways() -> str:
    """The way of each request of two servers over all streams; and what ``metrics.py`` counts of
    each request of the vectors, which the page's picture of a life must count as well."""
    scenarios = {
        "two-engines": TwoEngines().run().trace(),
        "tiny-pressure": trace_of(tiny_pressure()),
    }
    return (
        json.dumps(
            {
                "ways": {name: ways(trace) for name, trace in scenarios.items()},
                "metrics": {
                    name: counted(trace_of(make_run())) for name, make_run in VECTORS.items()
                },
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        + "\n"
    )


def ways(trace: Trace) -> dict[str, Any]:
    """With a clock that ticks once for each event, so that it is the same in every run."""
    events = sorted((e for e in trace.events if e.kind != "run.source"), key=lambda e: e.t_ns)
    ticked = []
    for i, event in enumerate(events, start=1):
        plain = wire(event) | {"t_ns": 1_000_000 * i}
        if event.stream == "api" or event.kind == "ipc.recv":
            plain["data"] = msgspec.to_builtins(event.data)  # these times were given
        ticked.append(plain)
    again = Trace(trace.header, [decode_event(msgspec.json.encode(e)) for e in ticked])
    ids = {e.data.request_id for e in again.events if e.kind == "req.arrive"}
    return {
        "events": ticked,
        "hops": {
            request_id: {
                "places": [msgspec.to_builtins(place) for place in way.places],
                "hops": [msgspec.to_builtins(hop) for hop in way.hops],
            }
            for request_id in sorted(ids)
            for way in [way_of(again, request_id)]
        },
    }


def counted(trace: Trace) -> dict[str, Any]:
    return {
        req: {
            "ttft": r.ttft,
            "tpot": r.tpot,
            "queue": r.queue,
            "outputs": r.output_tokens,
            "reused": r.reused_first,
        }
        for req, r in measure(trace).by_request.items()
    }


if __name__ == "__main__":
    WAYS.write_text(make_ways(), encoding="utf-8")
    FRONT.write_text(make_front(), encoding="utf-8")
    for name in [*VECTORS, *TRACES]:
        (HERE / f"{name}.json").write_text(make(name), encoding="utf-8")
        print(f"wrote {name}.json")
