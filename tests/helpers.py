"""What several rooms' tests need: a run as a trace, and the engine's own state as the fold's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from minivllm.core.block_hash import short
from minivllm.engine.engine_core import EngineCore
from minivllm.scenario import ScenarioRun, load_scenario, start
from minivllm.trace.events import Event, RunStart
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.fold import State
from minivllm.trace.recorder import Recorder


def events_of(recorder: Recorder) -> list[Event]:
    """All events of a recorder so far, as they stand in its lines."""
    recorder.flush()
    lines = recorder.log.lines(recorder.stream, 1, recorder.seq)
    return [decode_event(line) for line in lines]


def trace_of(run: ScenarioRun) -> Trace:
    return Trace(run.recorder.log.header, events_of(run.recorder))


def write_two_lives(path: Path) -> Path:
    """A trace of an engine that was started twice: tiny-pressure's 17 steps, then 13 with a
    larger pool."""
    first, second = (
        trace_of(start(load_scenario("tiny-pressure"), num_kv_blocks=blocks).run())
        for blocks in (16, 24)
    )
    again = [
        msgspec.structs.replace(e, data=RunStart(epoch=2)) if e.kind == "run.start" else e
        for e in second.events
    ]
    lines = [msgspec.json.encode(line) for line in (first.header, *first.events, *again)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def engine_view(core: EngineCore) -> dict[str, Any]:
    """What the engine itself holds, in the words of the fold."""
    scheduler, kv = core.scheduler, core.kv
    return {
        "waiting": [r.req_id for r in scheduler.waiting],
        "running": [r.req_id for r in scheduler.running],
        "requests": {
            r.req_id: {
                "status": r.status.value,
                "tokens": list(r.token_ids),
                "drafts": r.spec_token_ids,
                "num_computed_tokens": r.num_computed_tokens,
                "num_preemptions": r.num_preemptions,
                "table": kv.block_ids(r),
            }
            for r in scheduler.requests.values()
        },
        "refs": [block.ref_cnt for block in kv.pool.blocks],
        "hashes": [short(b.block_hash) if b.block_hash else None for b in kv.pool.blocks],
        "free": [block.block_id for block in kv.pool.free_queue],
        "cached": {short(h): list(twins) for h, twins in kv.pool.cached.items()},
    }


def fold_view(state: State) -> dict[str, Any]:
    """The same of the fold."""
    return {
        "waiting": state.waiting,
        "running": state.running,
        "requests": {
            name: {
                "status": r.status,
                "tokens": r.tokens,
                "drafts": r.drafts,
                "num_computed_tokens": r.num_computed_tokens,
                "num_preemptions": r.num_preemptions,
                "table": r.table,
            }
            for name, r in state.requests.items()
            if r.status != "finished"
        },
        "refs": [block.ref for block in state.blocks],
        "hashes": [block.hash for block in state.blocks],
        "free": state.free,
        "cached": state.cached,
    }
