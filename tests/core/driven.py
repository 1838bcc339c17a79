"""Driven: an engine core over K and V in miniature, and what must hold after each input and step.

Who drives it is another matter: ``random_runs.py`` carries out plans, ``state_machine.py`` chooses
step by step. Both say what to do; what is then demanded stands here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

from minivllm.config import EngineConfig
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    SchedulerStats,
)
from minivllm.sampling_params import SamplingParams
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.events import Data, Event, Reason
from minivllm.trace.fold import apply, new_state
from minivllm.trace.invariants import violations
from minivllm.trace.tracer import Tracer
from tests.core import stats_of_fold
from tests.core.content_executor import VOCABULARY, ContentExecutor, contents, next_token
from tests.core.invariants import broken
from tests.helpers import engine_view, fold_view
from tests.structured.fakes import AnyToken, ScriptedGrammars

EOS = 5
P = ParamSpec("P")


class Direct(Tracer):
    """Hands each event on as it is: what a recorder does, without the JSON (ten times as fast)."""

    on = True

    def __init__(self, take: Callable[[Event], None]) -> None:
        self.take = take
        self.seq = 0

    def emit(
        self, kind: Callable[P, Data], req: str | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        data = kind(*args, **kwargs)
        self.seq += 1
        self.take(
            Event(
                stream="engine0",
                seq=self.seq,
                step=self.step,
                phase=self.phase,
                kind=data.KIND,
                t_ns=0,
                src=0,
                req=req,
                data=data,
            )
        )


class Driven:
    """Inputs and steps by method; each checks what must hold afterwards."""

    def __init__(self, config: EngineConfig, vocabulary: int = VOCABULARY) -> None:
        """``vocabulary``: of how many tokens the model has the choice; of few, drafts are right."""
        self.config = config
        self.executor = ContentExecutor(config, vocabulary=vocabulary)
        self.events: list[Event] = []
        self.state = new_state()
        self.trace = self.make_tracer()
        self.grammars = ScriptedGrammars({})
        self.core = EngineCore(self.config, self.executor, self.trace, self.grammars)
        self.grammars.step = lambda: self.core.scheduler.current_step + 1
        self.messages: dict[str, EngineCoreRequest] = {}
        self.outputs: dict[str, list[EngineCoreOutput]] = {}
        self.told: dict[str, list[EngineCoreEvent]] = {}  # a request's stations, by the outputs
        self.stands = SchedulerStats.empty(0)  # as the engine has last told
        self.aborted: set[str] = set()
        self.salts: dict[str, str | None] = {}
        self.content_of: dict[bytes, bytes] = {}  # a block's hash -> content of its last slot
        self.num_idle_steps = 0
        self.most_drafts = config.scheduler.speculative_ngram  # at any time so far
        self.may_fail = False  # a step was made to fail, or a row to go wrong

    def make_tracer(self) -> Tracer:
        return Direct(self.take)

    def take(self, event: Event) -> None:
        self.events.append(event)
        apply(self.state, event)

    # --- inputs and steps ------------------------------------------------------------------

    def add(
        self,
        prompt: list[int],
        priority: int,
        cache_salt: str | None,
        grammar: tuple[int, bool] | None = None,
        **params: Any,
    ) -> None:
        """``grammar``: the steps that it takes to compile, and whether it then can be had."""
        number = len(self.messages) + 1
        request_id = f"q{number}"
        if grammar is not None:
            params["structured_outputs"] = StructuredOutputsParams(regex="any")
            ready = self.core.scheduler.current_step + 1 + grammar[0]
            outcome = AnyToken() if grammar[1] else "its grammar cannot be compiled"
            self.grammars.outcomes[f"r{number}"] = ready, outcome
        self.messages[request_id] = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(**params),
            eos_token_id=EOS,
            priority=priority,
            cache_salt=cache_salt,
        )
        self.salts[self.core.add_request(self.messages[request_id])] = cache_salt
        self.after_input()

    def abort(self, request_id: str) -> None:
        if request_id in self.messages and self.ended(request_id) is None:
            self.aborted.add(request_id)
        self.core.abort_request(request_id, Reason.CLIENT)
        self.after_input()

    def reset(self) -> None:
        used = self.core.kv.pool.num_free_blocks != self.core.kv.pool.num_usable_blocks
        assert self.core.reset_prefix_cache() is not used
        assert used or not self.core.kv.pool.cached
        self.after_input()

    def set_knobs(self, **knobs: Any) -> None:
        self.core.set_knobs(**knobs)
        self.most_drafts = max(self.most_drafts, self.core.config.scheduler.speculative_ngram)
        self.after_input()

    def fail_next(self, when: str) -> None:
        """The next batch fails ``early``, ``late``, or its first row is garbage (``poison``)."""
        self.may_fail = True
        if when == "poison":
            self.executor.poison_next = True
        else:
            self.executor.fail_next = when

    def after_input(self) -> None:
        told = self.core.take_outputs()
        self.keep(told.outputs)
        self.check()
        self.check_standing(told)
        assert told.stats in (None, self.stands)

    def step(self) -> None:
        self.trace.flush()
        was_running, first = list(self.state.running), len(self.events)
        failed = self.executor.num_failed
        told = self.core.step()
        outputs = told.outputs
        self.keep(outputs)
        self.check()
        events = self.events[first:]
        assert told.stats == stats_of_fold.of_step(self.state, events)
        self.check_standing(told)
        errors = [e for e in events if e.kind == "run.error"]
        assert len(errors) == self.executor.num_failed - failed, errors
        self.check_step(was_running, events)
        ended = any(output.finish_reason for output in outputs)
        batch = next(e.data for e in events if e.kind == "batch.compose")
        live = self.core.scheduler.requests.values()
        if batch.tokens or ended or all(request.waits_for_grammar for request in live):
            self.num_idle_steps = 0
        else:
            # Somebody may give way to nobody's use, but not for ever, and never without a word.
            self.num_idle_steps += 1
            assert self.num_idle_steps <= len(self.messages), "nothing runs any more"
            assert any(e.kind in ("sched.victim", "sched.skip") for e in events)

    def keep(self, outputs: list[EngineCoreOutput]) -> None:
        for output in outputs:
            assert self.ended(output.request_id) is None, "an output after the end"
            self.outputs.setdefault(output.request_id, []).append(output)
            self.told.setdefault(output.request_id, []).extend(output.events)
            if output.finish_reason is not None:
                told = stats_of_fold.told_stations(self.told[output.request_id])
                assert told == stats_of_fold.stations(self.events, f"r{output.request_id[1:]}")

    # --- what must hold --------------------------------------------------------------------

    def check(self) -> None:
        """After every input and every step."""
        self.trace.flush()
        assert fold_view(self.state) == engine_view(self.core)
        assert violations(self.state) == []
        assert broken(self.core, self.most_drafts) == []
        self._check_salts()
        self._check_cached_contents()

    def check_standing(self, told: EngineCoreOutputs) -> None:
        """Whoever hears of all that has news knows how the engine stands."""
        expected = stats_of_fold.standing(self.state, self.core.scheduler.current_step)
        if told.stats is None:
            assert self.stands == expected
        self.stands = expected

    def _check_salts(self) -> None:
        holders: dict[int, set[str | None]] = {}
        for name, table in self.core.kv.tables.items():
            for block in table:
                holders.setdefault(block.block_id, set()).add(self.salts[name])
        assert all(len(salts) == 1 for salts in holders.values()), "salts share a block"

    def _check_cached_contents(self) -> None:
        """Whatever can be found by its hash has been computed."""
        size = self.config.cache.block_size
        for request in self.core.scheduler.requests.values():
            if request.block_hashes and request.block_hashes[-1] not in self.content_of:
                slots = contents(request.token_ids)
                for i, block_hash in enumerate(request.block_hashes):
                    self.content_of[block_hash] = slots[(i + 1) * size - 1]
        for block_hash, twins in self.core.kv.pool.cached.items():
            for block_id in twins:
                held = self.executor.slots.get((block_id, size - 1))
                assert held is not None, f"block {block_id} was never computed"
                known = self.content_of.get(block_hash, held)
                assert held == known, f"block {block_id} holds garbage"

    def check_step(self, was_running: list[str], events: list[Event]) -> None:
        """The rules that concern one step."""

        def of(kind: str) -> list[Event]:
            return [event for event in events if event.kind == kind]

        ledger, batch = of("sched.ledger")[0].data, of("batch.compose")[0].data
        assert ledger.used == batch.tokens <= ledger.budget
        granted = {row.req: row.granted for row in ledger.rows if row.granted}
        assert granted == {row.req: row.n for row in batch.rows}
        assert len(ledger.rows) == len({row.req for row in ledger.rows})
        preempted = {e.req for e in of("req.preempt")}
        admitted = {e.req for e in of("req.admit") + of("req.resume")}
        assert not (preempted and admitted), "somebody was admitted in a step that preempted"
        rows = {row.req: row for row in ledger.rows}
        outgrown = {e.req for e in of("sched.skip") if e.data.reason == Reason.LARGER_THAN_POOL}
        for name in was_running:
            if name in outgrown:
                continue
            row = rows[name]
            assert row.granted or row.limited_by in (
                Reason.NO_BUDGET,
                Reason.PREEMPTED,
                Reason.PREEMPTED_THIS_STEP,
            )
            if row.limited_by == Reason.PREEMPTED_THIS_STEP:
                assert any(e.req == e.data.for_req for e in of("sched.victim")), "left out"
            if row.limited_by == Reason.NO_BUDGET and not row.granted:
                assert not admitted, "budget went to a new request before a running one"
        refunds = sum(e.data.n for e in of("sched.refund"))
        assert sum(e.data.n for e in of("sched.grant")) - refunds == ledger.used
        if ledger.used < ledger.budget:
            assert ledger.unused_reason is not None
        known = self.state.requests
        ready = [n for n in self.state.waiting if known[n].status != "waiting_for_grammar"]
        for name in ready:
            assert known[name].wait is not None, f"{name} waits without a reason"
        for stop in (e.data for e in of("sched.stop")):
            named = [stop.head, *stop.behind]
            assert named == ready, "who waits for a grammar stands behind nobody"

    def check_end(self) -> None:
        """Every request ended as if it had run alone; nothing is left behind."""
        for request_id, message in self.messages.items():
            tokens = [t for o in self.outputs[request_id] for t in o.new_token_ids]
            expected, reason = self.alone(message)
            ended = self.ended(request_id)
            if ended in ("abort", "error") and ended != reason:
                assert request_id in self.aborted or ended == "error"
                assert tokens == expected[: len(tokens)]
                assert ended != "error" or self.may_fail or self.has_no_grammar(request_id)
            else:
                assert (tokens, ended) == (expected, reason), request_id
                _, grammar = self.grammars.outcomes.get(f"r{request_id[1:]}", (0, None))
                if isinstance(grammar, AnyToken):
                    assert grammar.taken == tokens, "a token moves its grammar on once"
        pool = self.core.kv.pool
        assert pool.num_free_blocks == pool.num_usable_blocks and not self.core.kv.tables
        assert not self.core._req_ids
        assert self.state.finished and len(self.state.finished) == len(self.messages)

    def check_that_all_of_the_pool_can_be_used(self) -> None:
        """One last request fills the pool; then the worker knows of it alone."""
        size = self.config.cache.block_size
        pool = self.core.kv.pool.num_usable_blocks * size
        if self.config.cache.kv_manager_cls == "contiguous":
            pool -= 1  # room for the token that it says is set aside at once
            if self.config.cache.contiguous_reserve == "max_model_len":
                pool = min(pool, self.core.max_model_len - 1)
                if self.core.kv.blocks_for(self.core.max_model_len) * size > pool + 1:
                    return  # nobody fits, ever
        self.executor.fail_next, self.executor.poison_next = "", False
        self.add(
            prompt=[0] * min(pool, self.core.max_model_len - 1),
            priority=0,
            cache_salt=None,
            max_tokens=1,
        )
        while self.core.has_requests():
            self.step()
        assert self.ended(f"q{len(self.messages)}") == "length"
        assert list(self.executor.rows) == [f"r{len(self.messages)}"]

    def has_no_grammar(self, request_id: str) -> bool:
        """It asked for one that cannot be compiled."""
        return isinstance(self.grammars.outcomes.get(f"r{request_id[1:]}", (0, None))[1], str)

    def ended(self, request_id: str) -> str | None:
        outputs = self.outputs.get(request_id)
        return outputs[-1].finish_reason if outputs else None

    def alone(self, message: EngineCoreRequest) -> tuple[list[int], str]:
        """The output and its end, found without any scheduling."""
        params, prompt = message.sampling_params, message.prompt_token_ids
        size, max_len = self.config.cache.block_size, self.core.max_model_len
        capacity = self.core.kv.pool.num_usable_blocks * size  # tokens
        if not prompt or len(prompt) >= max_len or len(prompt) > capacity:
            return [], "error"
        if self.config.cache.kv_manager_cls == "contiguous":
            most = len(prompt) + (params.max_tokens or max_len)
            if self.config.cache.contiguous_reserve == "max_model_len":
                most = max_len
            if self.core.kv.blocks_for(min(most, max_len)) * size > capacity:
                return [], "error"
        output: list[int] = []
        while True:
            token_id = next_token(prompt + output, self.executor.vocabulary)
            output.append(token_id)
            if token_id == EOS and params.structured_outputs is not None:
                return output, "stop"  # behind a grammar's end there is nothing to say
            if len(output) >= params.min_tokens:
                if token_id == EOS and not params.ignore_eos:
                    return output, "stop"
                if token_id in params.stop_token_ids:
                    return output, "stop"
            num_tokens = len(prompt) + len(output)
            if len(output) == params.max_tokens or num_tokens in (max_len, capacity + 1):
                return output, "length"
