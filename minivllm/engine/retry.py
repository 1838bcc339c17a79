"""What becomes of the requests of an engine that has died: who begins anew, and what is said then.

A request may begin anew on another engine as long as nobody has heard of it what that one might not
say again: it has said nothing, or its reader sees no token before the last. It may do so once: one
that kills engines would else kill all of them, one after the other. No counterpart in vLLM, where
an engine's death is the server's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    SchedulerStats,
)
from minivllm.engine.router import OpenRequest

MAX_RETRIES = 1
"""How often a request may begin anew: one that kills engines kills two."""
DIED = "the engine that ran this request has died"
"""All that its sender is told; what the engine died of is in the log and in the trace."""


def may_begin_anew(request: OpenRequest) -> bool:
    return not request.was_heard and request.aborted is None and request.num_retries < MAX_RETRIES


def new_beginning(request: OpenRequest, engine: int) -> EngineCoreOutputs:
    """Tells the front end to forget what it heard, after that and before what ``engine`` says."""
    queued = EngineCoreEvent(EngineCoreEventType.QUEUED, request.sent_ns)
    output = EngineCoreOutput(
        request_id=request.request.request_id,
        new_token_ids=[],
        events=[queued],  # the first engine may never have come to tell it
        begins_anew=True,
    )
    return EngineCoreOutputs(step=0, engine=engine, outputs=[output])


def last_outputs(engine: int, ended: Iterable[OpenRequest]) -> EngineCoreOutputs:
    """Of requests that no engine will end; and that ``engine`` does nothing any more."""
    outputs = []
    for request in ended:
        failed = request.aborted is None
        outputs.append(
            EngineCoreOutput(
                request_id=request.request.request_id,
                new_token_ids=[],
                finish_reason="error" if failed else "abort",
                stop_reason=DIED if failed else None,
                engine_died=failed,
            )
        )
    stats = SchedulerStats.empty(engine)
    return EngineCoreOutputs(
        step=0, engine=engine, outputs=outputs, t_ns=time.perf_counter_ns(), stats=stats
    )
