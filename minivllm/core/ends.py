"""Ends: how a request leaves the scheduler, by itself or early, and who has yet to hear of it.

Counterpart in vLLM: ``finish_requests`` and ``_free_request`` in
``vllm/v1/core/sched/scheduler.py``.

Two parties must be told afterwards: the worker, which keeps the request's tokens (with the next
batch), and the front end, if the request ended out of turn (with the next outputs).
"""

from __future__ import annotations

from minivllm.core.interfaces import KVManager
from minivllm.core.request_queue import RequestQueue
from minivllm.engine.messages import EngineCoreOutput
from minivllm.request import Request, RequestStatus
from minivllm.trace import events as ev
from minivllm.trace.events import Reason
from minivllm.trace.tracer import Tracer


class Ends:
    """Works on the scheduler's own queues: it removes, and never adds."""

    def __init__(
        self,
        waiting: RequestQueue,
        running: list[Request],
        requests: dict[str, Request],
        kv: KVManager,
        trace: Tracer,
    ) -> None:
        self.waiting, self.running, self.requests = waiting, running, requests
        self.kv = kv
        self.trace = trace
        self.finished_req_ids: list[str] = []  # the worker has yet to be told
        self._ended_early: list[EngineCoreOutput] = []  # the front end has yet to be told

    def end(
        self, request: Request, reason: str, stop_reason: int | str | None, why: Reason | None
    ) -> None:
        """Free its blocks and forget it. The caller reports the end."""
        self.kv.free(request)
        queue = self.running if request.status is RequestStatus.RUNNING else self.waiting
        queue.remove(request)
        request.status = RequestStatus.FINISHED
        del self.requests[request.req_id]
        if request.known_to_worker:
            self.finished_req_ids.append(request.req_id)
        self.trace.emit(
            ev.ReqFinish,
            request.req_id,
            reason=reason,
            why=why,
            stop_reason=stop_reason,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=request.num_output_tokens,
            preemptions=request.num_preemptions,
        )

    def finish(
        self, request: Request, reason: str, why: Reason | None, message: str | None
    ) -> None:
        """End it out of turn, and keep an output that says so."""
        self.end(request, reason, message, why)
        self._ended_early.append(
            EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=reason,
                stop_reason=message,
                num_cached_tokens=request.num_cached_tokens,
                events=request.take_events(),
            )
        )

    def fail(self, request: Request, message: str, num_unsound: int) -> None:
        """End it by an error; of its last ``num_unsound`` tokens nobody may hit the blocks."""
        self.kv.withdraw_hashes(request, request.num_computed_tokens - num_unsound)
        self.trace.emit(ev.ReqError, request.req_id, message=message)
        self.finish(request, "error", why=None, message=message)

    def take_ended_early(self) -> list[EngineCoreOutput]:
        outputs, self._ended_early = self._ended_early, []
        return outputs

    def take_finished_req_ids(self) -> list[str]:
        finished, self.finished_req_ids = self.finished_req_ids, []
        return finished
