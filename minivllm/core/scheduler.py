"""Scheduler: which requests run in this step, and how many tokens of each.

Counterpart in vLLM: ``vllm/v1/core/sched/scheduler.py``. Left out: encoder inputs, LoRA, KV
connectors, pipeline parallelism, asynchronous scheduling.

There is no prefill phase and no decode phase. A request has tokens that are known (prompt, output,
drafts) and ``num_computed_tokens``; each step lets the second catch up with the first as far as
the budget and the blocks allow. A long prompt takes several steps, a running request lacks exactly
the one token it sampled last (and its drafts, if somebody guessed what follows), a prefix hit
starts with some already computed: one rule covers them all.

In reading order:

    schedule()            running requests first, then waiting ones, then the batch is built
    update_from_output()  appends what was sampled, ends requests, proposes drafts
    finish(), fail()      end one request early (``ends.py``)

Whoever writes a scheduler of their own (``--scheduler-cls``) derives from this class and changes a
part, or writes another that has what ``interfaces.py`` lists.
"""

from __future__ import annotations

from minivllm.config import SchedulerConfig
from minivllm.core.admission import Admission, Admitted, limit_tokens, long_prefill_threshold
from minivllm.core.ends import Ends
from minivllm.core.interfaces import KVManager, Shortage
from minivllm.core.request_queue import QUEUES, RequestQueue
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.core.speculation import Speculation
from minivllm.core.step import Grant, Step, kind_of_work
from minivllm.engine.messages import EngineCoreOutput
from minivllm.request import Request, RequestStatus
from minivllm.trace import events as ev
from minivllm.trace.events import GrantWhy, Reason
from minivllm.trace.texts import CONTEXT
from minivllm.trace.tracer import OFF, Tracer


class Scheduler:
    """Queues, token budget and preemption, over one KV cache manager."""

    def __init__(
        self, config: SchedulerConfig, kv: KVManager, max_model_len: int, trace: Tracer = OFF
    ) -> None:
        self.config = config
        self.kv = kv
        self.max_model_len = max_model_len  # tokens
        self.trace = trace
        self.admission = Admission(config, kv)
        self.waiting = self.make_queue()
        self.running: list[Request] = []  # in order of admission
        self.requests: dict[str, Request] = {}  # all that have not finished, by core name
        self.current_step = 0
        self._ends = Ends(self.waiting, self.running, self.requests, kv, trace)
        self._drafts = Speculation(config, max_model_len, trace)
        self._batch_width = 0  # static batching: rows of the batch, those that ended included

    def make_queue(self) -> RequestQueue:
        """Who is looked at first, and who gives way: the place for a policy of one's own."""
        return QUEUES[self.config.policy]()

    def add_request(self, request: Request) -> None:
        """Take a request into the waiting queue; the next step is the first to look at it."""
        request.arrival_step = self.current_step + 1
        position = self.waiting.add(request)
        self.requests[request.req_id] = request
        self.trace.emit(ev.ReqEnqueue, request.req_id, position=position)

    def set_config(self, config: SchedulerConfig) -> None:
        """Other knobs from the next step on; those who wait line up anew for another policy."""
        old, self.config = self.config, config
        self.admission.config = self._drafts.config = config
        if config.policy != old.policy:
            self.waiting = self._ends.waiting = self.make_queue().line_up(self.waiting)

    def schedule(self) -> SchedulerOutput:
        """Decide this step's batch, and count its tokens as computed."""
        self.current_step += 1
        budget = self.config.max_num_batched_tokens
        step = Step(total_budget=budget, budget=budget, num_running_before=len(self.running))
        num_requests = len(self.running) + len(self.waiting)
        step.long_prefill_threshold = long_prefill_threshold(self.config, num_requests)
        self._schedule_running(step)
        self._schedule_waiting(step)
        # An empty batch does not run, so the worker would not hear of those who finished.
        finished = self._ends.take_finished_req_ids() if step.grants else []
        output = step.to_output(self.current_step, self.kv, finished, self._padding(step))
        # Count them before they run: from here on a request is described by its numbers alone,
        # and update_from_output need not know how a token came about.
        for grant in step.grants.values():
            grant.request.num_computed_tokens += grant.n
            grant.request.spec_token_ids = []
        if self.trace.on:
            self.trace.emit(ev.SchedLedger, None, **step.ledger())  # type: ignore[arg-type]
            total, padding = output.total_num_scheduled_tokens, output.num_padding_tokens
            rows = step.batch_rows()
            self.trace.emit(ev.BatchCompose, None, rows=rows, tokens=total, padding=padding)
        return output

    def _padding(self, step: Step) -> int:
        """Static batching: a row that has ended is computed on, one token a step, until all end."""
        if self.config.batching != "static" or not step.grants:
            return 0
        if not step.num_running_before:  # the batch was formed in this step
            self._batch_width = len(self.running)
        return max(self._batch_width - len(self.running), 0)

    # --- running requests ----------------------------------------------------------------------

    def _schedule_running(self, step: Step) -> None:
        """In order, while budget lasts: those who run are served before anybody new."""
        index = 0
        while index < len(self.running) and step.budget > 0:
            request = self.running[index]
            lacking = request.num_tokens_with_spec - request.num_computed_tokens
            n, limited_by = limit_tokens(lacking, step.long_prefill_threshold, step.budget)
            room = self.max_model_len - 1 - request.num_computed_tokens
            # vLLM's rule for drafts, kept as a last guard: here they are cut when proposed.
            if room < n:
                n, limited_by = room, Reason.MAX_MODEL_LEN
            if n <= 0:  # nothing for it to do; those behind it may still run
                step.account(request, 0, limited_by)
                index += 1
                continue
            own = request.num_tokens - request.num_computed_tokens  # without drafts
            if n > own and self.kv.shortage(request, request.num_computed_tokens + n):
                n, limited_by = own, Reason.NO_FREE_BLOCKS  # a guess drives nobody out
            if self._outgrew_pool(request, n):
                continue  # it has left the list: the next one stands at this index
            new_block_ids = self._allocate_or_preempt(request, n, step)
            if new_block_ids is None:  # it gave way itself
                break
            self._grant(step, request, n, limited_by, kind_of_work(request, n), new_block_ids)
            # A victim may have stood before it; then everybody has moved up.
            index = self.running.index(request) + 1 if step.preempted else index + 1
        limit = Reason.NO_BUDGET if step.budget == 0 else Reason.PREEMPTED_THIS_STEP
        for request in self.running:
            if request.req_id not in step.rows:  # not reached
                step.account(request, 0, limit)

    def _allocate_or_preempt(self, request: Request, n: int, step: Step) -> list[int] | None:
        """Blocks for ``n`` more tokens; others give way until they are there.

        None when the request itself had to give way.
        """
        while True:
            added = self.kv.allocate_slots(request, n)
            if not isinstance(added, Shortage):
                return added
            victim = self.waiting.victim(self.running)
            self.trace.emit(
                ev.SchedVictim,
                victim.req_id,
                for_req=request.req_id,
                need=added.need,
                have=added.have,
                policy=self.config.policy,
                candidates=[r.req_id for r in self.running],
                tokens_lost=victim.num_computed_tokens,
            )
            self._preempt(victim, step)
            if victim is request:
                return None

    def _preempt(self, victim: Request, step: Step) -> None:
        """Recompute, no swap: the blocks go back (their hashes stay), the tokens are kept."""
        refund = step.take_back(victim)
        if refund:
            self.trace.emit(ev.SchedRefund, victim.req_id, n=refund)
            # Its new blocks were hashed when they were allocated, but will never be filled.
            self.kv.withdraw_hashes(victim, victim.num_computed_tokens)
        step.account(victim, 0, Reason.PREEMPTED)
        step.preempted.append(victim)
        self.kv.free(victim)
        self.running.remove(victim)
        victim.spec_token_ids = []
        tokens_lost, victim.num_computed_tokens = victim.num_computed_tokens, 0
        victim.status = RequestStatus.PREEMPTED
        victim.num_preemptions += 1
        position = self.waiting.put_back(victim)
        self.trace.emit(ev.ReqPreempt, victim.req_id, tokens_lost=tokens_lost, position=position)

    def _outgrew_pool(self, request: Request, n: int) -> bool:
        """End a request that needs more blocks than the whole pool has.

        Checked before any victim is taken: preempting everybody would not help it.
        """
        need = self.kv.blocks_for(request.num_computed_tokens + n)
        have = self.kv.pool.num_usable_blocks
        if need <= have:
            return False
        reason = Reason.LARGER_THAN_POOL
        self.trace.emit(ev.SchedSkip, request.req_id, reason=reason, need=need, have=have, hit=0)
        self.finish(request, "length", why=reason)
        return True

    # --- waiting requests ----------------------------------------------------------------------

    def _schedule_waiting(self, step: Step) -> None:
        """Admit from the head, up to the first that may not start; past who has no grammar yet.

        Nobody is admitted in a step that preempted: the blocks that came back are for those who
        run, and the victim would be let in again at once.
        """
        if step.preempted:
            return self._stop_waiting(step, Reason.PREEMPTED_THIS_STEP)
        position = 0
        while position < len(self.waiting):
            request = self.waiting.peek(position)
            if self._outgrew_pool(request, request.num_tokens):  # it filled the pool when it ran
                continue
            answer = self.admission.examine(request, self.running, step)
            if isinstance(answer, Admitted):
                self._admit(step, request, answer)
                continue
            self.trace.emit(ev.SchedSkip, request.req_id, **answer.told())
            step.account(request, 0, answer.reason)
            if answer.reason is not Reason.WAITING_FOR_GRAMMAR:
                return self._stop_waiting(step, answer.reason)
            position += 1

    def _admit(self, step: Step, request: Request, admitted: Admitted) -> None:
        n, hit = admitted.num_new_tokens, admitted.hit.num_tokens
        new_block_ids = self.kv.allocate_slots(request, n, admitted.hit)
        if isinstance(new_block_ids, Shortage):
            raise RuntimeError(f"{request.req_id} was admitted without room: {new_block_ids}")
        self.waiting.remove(request)
        self.running.append(request)
        request.num_computed_tokens = hit
        num_tokens = request.num_tokens
        if request.status is RequestStatus.PREEMPTED:
            self.trace.emit(ev.ReqResume, request.req_id, hit=hit, tokens=num_tokens)
            why = GrantWhy.RESUME
        else:
            self.trace.emit(ev.ReqAdmit, request.req_id, hit=hit, tokens=num_tokens)
            request.num_cached_tokens = hit
            why = kind_of_work(request, n)
        request.status = RequestStatus.RUNNING
        self._grant(step, request, n, admitted.limited_by, why, new_block_ids)

    def _stop_waiting(self, step: Step, reason: Reason) -> None:
        step.stopped_by = reason
        if self.trace.on:
            head, *behind = (r.req_id for r in self.waiting if not r.waits_for_grammar)
            self.trace.emit(ev.SchedStop, None, reason=reason, head=head, behind=behind)

    # --- a grant -------------------------------------------------------------------------------

    def _grant(
        self,
        step: Step,
        request: Request,
        n: int,
        limited_by: Reason | None,
        why: GrantWhy,
        new_block_ids: list[int],
    ) -> None:
        start = request.num_computed_tokens
        num_drafts = max(start + n - request.num_tokens, 0)
        drafts = request.spec_token_ids[:num_drafts]
        step.add(Grant(request, start, n, why, new_block_ids, drafts), limited_by)
        self.trace.emit(ev.SchedGrant, request.req_id, n=n, start=start, why=why)
        if start + n < request.num_tokens:
            lacking = request.num_tokens - start
            self.trace.emit(ev.SchedChunk, request.req_id, n=n, of=lacking)

    # --- after execution -----------------------------------------------------------------------

    def update_from_output(
        self, scheduled: SchedulerOutput, result: ModelRunnerOutput
    ) -> list[EngineCoreOutput]:
        """Append the sampled tokens one by one, with the stop checks after each.

        Returns an output for every request that got a token or ended.
        """
        outputs: list[EngineCoreOutput] = []
        for req_id, n in scheduled.num_scheduled_tokens.items():
            request = self.requests[req_id]
            if req_id in result.errors:
                self.fail(request, result.errors[req_id], num_unsound=n)
                continue
            sampled = result.sampled_token_ids.get(req_id)
            if not sampled:  # a chunk of a prompt: nothing to sample from yet
                continue
            if drafts := scheduled.scheduled_spec_decode_tokens.get(req_id):
                self._drafts.verify(request, drafts, num_accepted=len(sampled) - 1)
            output = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                num_cached_tokens=request.num_cached_tokens,
                prompt_logprobs=result.prompt_logprobs.get(req_id),
                events=request.take_events(),
            )
            for token_id in sampled:
                self._append_token(request, token_id)
                output.new_token_ids.append(token_id)
                stop = request.check_stop(self.max_model_len)
                if stop is not None:
                    self._drafts.drop(request, len(sampled) - len(output.new_token_ids))
                    output.finish_reason, output.stop_reason = stop
                    self._ends.end(request, *stop, why=None)
                    break
            else:
                self._drafts.propose(request)
            output.new_logprobs = result.logprobs.get(req_id, [])[: len(output.new_token_ids)]
            outputs.append(output)
        return outputs + self.take_ended_early()

    def _append_token(self, request: Request, token_id: int) -> None:
        index = request.num_output_tokens
        text = self.trace.text(token_id, request.token_ids[-CONTEXT:]) if self.trace.on else ""
        request.token_ids.append(token_id)
        self.trace.emit(ev.ReqToken, request.req_id, token_id=token_id, text=text, index=index)
        if index == 0:
            steps = self.current_step - request.arrival_step + 1
            self.trace.emit(ev.ReqFirstToken, request.req_id, steps_since_arrival=steps)

    # --- ends ----------------------------------------------------------------------------------

    def finish(
        self, request: Request, reason: str, why: Reason | None, message: str | None = None
    ) -> None:
        """End a request out of turn; ``take_ended_early`` reports it."""
        self._ends.finish(request, reason, why, message)

    def fail(self, request: Request, message: str, num_unsound: int) -> None:
        """End one request by an error; its last ``num_unsound`` computed tokens did not run, or
        ran wrongly, so that nobody may hit their blocks."""
        self._ends.fail(request, message, num_unsound)

    def fail_step(self, scheduled: SchedulerOutput, message: str) -> list[EngineCoreOutput]:
        """The step did not run: all who were in it end; queues and pool stay whole."""
        # The worker may have failed before it forgot them; one it does not know it passes over.
        self._ends.finished_req_ids += scheduled.finished_req_ids
        for req_id, n in scheduled.num_scheduled_tokens.items():
            self.fail(self.requests[req_id], message, num_unsound=n)
        return self.take_ended_early()

    def take_ended_early(self) -> list[EngineCoreOutput]:
        """The outputs of requests that ended out of turn since the last call."""
        return self._ends.take_ended_early()
