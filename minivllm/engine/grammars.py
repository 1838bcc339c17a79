"""Grammars: what the engine core does, step by step, for requests whose text must follow one.

    added                 the request waits in the queue, its grammar is compiled elsewhere
    before a step         who has got a grammar may be scheduled; who will get none, ends
    scheduled             each request that will be sampled gets a mask: the tokens that may come
    executed              each sampled token moves its request's grammar on, once

Counterpart in vLLM: ``EngineCore.step`` with ``get_grammar_bitmask``, and the calls of
``structured_output_manager`` in ``Scheduler``. The scheduler here knows one thing of all this: a
status to pass over.
"""

from __future__ import annotations

import logging

from minivllm.core.interfaces import SchedulerInterface
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.request import Request, RequestStatus
from minivllm.structured_output.interface import GrammarSource
from minivllm.trace import events as ev
from minivllm.trace.tracer import Tracer

logger = logging.getLogger(__name__)

DEAD_END = (
    "structured_outputs must be a form that a text can complete: here no token may follow, and the "
    "text may not end either"
)


class Grammars:
    """Used on the core's thread. ``source``: what compiles; None, as in a scenario, if nothing."""

    def __init__(self, source: GrammarSource | None, trace: Tracer, refused: set[str]) -> None:
        """``refused``: takes the ids of requests whose grammar is at fault."""
        self.source = source
        self.trace = trace
        self._refused = refused
        self._failed: dict[str, str] = {}  # this step: request → why it has no mask

    def start(self, request: Request) -> str | None:
        """Let a request that is queued wait for its grammar; returns why it never will have one."""
        params = request.sampling_params.structured_outputs
        if params is None:
            return None
        if self.source is None:
            return "this engine compiles no grammars"
        request.status = RequestStatus.WAITING_FOR_GRAMMAR
        self.trace.emit(ev.ReqGrammarWait, request.req_id, form=params.kind)
        self.source.start(request.req_id, params)
        return None

    def cancel(self, request: Request) -> None:
        if self.source is not None and request.waits_for_grammar:
            self.source.cancel(request.req_id)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their grammar."""
        return 0 if self.source is None else self.source.num_waiting

    def all_wait(self, num_requests: int) -> bool:
        """Every request waits for its grammar, and none is ready: a step could do nothing."""
        source = self.source
        if source is None or source.num_waiting < num_requests:
            return False
        return not source.any_ready

    def take_in(self, scheduler: SchedulerInterface) -> None:
        """Apply what has become of the grammars, as the last input before a step."""
        if self.source is None:
            return
        for req_id, grammar in self.source.take_ready():
            request = scheduler.requests.get(req_id)
            if request is None:
                continue
            if isinstance(grammar, str):
                self.trace.emit(ev.CoreInput, req_id, op="grammar_failed")
                self._refused.add(request.request_id)
                scheduler.fail(request, grammar, num_unsound=0)
                continue
            self.trace.emit(ev.CoreInput, req_id, op="grammar_ready")
            request.grammar = grammar
            request.status = RequestStatus.WAITING
            self.trace.emit(ev.ReqGrammarReady, req_id)

    def mask(self, scheduled: SchedulerOutput, requests: dict[str, Request]) -> None:
        """Put the masks into the batch; the tokens that are sampled in it must keep to them."""
        self._failed.clear()
        if self.source is None:
            return
        rows: list[ev.MaskRow] = []
        for req_id in scheduled.num_scheduled_tokens:
            request = requests[req_id]
            grammar = request.grammar
            if grammar is None or request.num_computed_tokens < request.num_tokens:
                continue  # no grammar, or a chunk of a prompt: nothing is sampled
            try:
                mask = grammar.mask()
            except Exception:
                logger.exception("no grammar mask for %s", req_id)
                self._failed[req_id] = "its grammar failed to say which tokens may follow"
                continue
            scheduled.grammar_bitmask[req_id] = mask.words
            rows.append(ev.MaskRow(req=req_id, masked=mask.num_masked))
            if mask.words and not any(mask.words):  # a replay has no words
                self._failed[req_id] = DEAD_END
        if rows:
            self.trace.emit(ev.GrammarMask, None, rows=rows)

    def advance(self, result: ModelRunnerOutput, requests: dict[str, Request]) -> None:
        """Move each grammar on by what was sampled. A request whose token its grammar does not
        take fails: the token came past the mask."""
        if self.source is None:
            return
        for req_id, token_ids in result.sampled_token_ids.items():
            grammar = requests[req_id].grammar
            if grammar is None or req_id in self._failed:
                continue
            if not all(grammar.accept(token_id) for token_id in token_ids):
                self._failed[req_id] = f"its grammar does not take token {token_ids[-1]}"
        for req_id, message in self._failed.items():
            result.sampled_token_ids.pop(req_id, None)
            result.errors[req_id] = message
            if message == DEAD_END:
                result.refused.add(req_id)
