"""Random runs: plans of arrivals, aborts and failures, and what must hold after every step of them.

A plan is plain data, so that hypothesis can shrink it and a failure can be run again by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import decode_event
from minivllm.trace.fold import apply, new_state, violations
from tests.core.builders import recorder
from tests.core.content_executor import VOCABULARY, ContentExecutor, contents, next_token
from tests.helpers import engine_view, fold_view


@dataclass(frozen=True)
class Plan:
    """The engine's knobs, and what is done to it: ``(operation, argument)`` in order; afterwards
    it steps to the end."""

    knobs: dict[str, Any]
    actions: list[tuple[str, Any]]


# --- strategies --------------------------------------------------------------------------------

PREFIXES = [[1] * 12, [1] * 4 + [2] * 8, [3, 4, 5, 6, 7, 8]]


@st.composite
def knobs(draw: st.DrawFn) -> dict[str, Any]:
    """Small pools, so that there is pressure; few tokens a step, so that there are chunks."""
    max_model_len = draw(st.sampled_from([24, 40, 12]))
    chunking = draw(st.sampled_from([True, True, False]))
    budget = draw(st.sampled_from([12, 20, 16, 7, 4, 1]))
    contiguous = draw(st.sampled_from([False] * 7 + [True]))
    paging = {
        "enable_prefix_caching": not contiguous
        and draw(st.sampled_from([True, True, True, False])),
        "kv_manager_cls": "contiguous" if contiguous else "paged",
        "contiguous_reserve": draw(st.sampled_from(["request", "max_model_len"])),
    }
    return paging | {
        "num_kv_blocks": 1 + draw(st.integers(5, 14)),
        "block_size": draw(st.sampled_from([2, 4, 3, 1])),
        "max_model_len": max_model_len,
        "max_num_seqs": draw(st.sampled_from([4, 6, 5, 3, 2, 1])),
        "max_num_batched_tokens": budget if chunking else max_model_len + budget,
        "policy": draw(st.sampled_from(["priority", "fcfs"])),
        "enable_chunked_prefill": chunking,
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 0, 1, 3, 6])),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.15, 0.5])),
        "admission": draw(st.sampled_from(["full", "full", "full", "strict"])),
        "batching": draw(st.sampled_from(["continuous"] * 5 + ["static"])),
        "speculative_ngram": draw(st.sampled_from([0, 0, 2, 4, 1])),
        "prompt_lookup_min": 1,
    }


@st.composite
def arrivals(draw: st.DrawFn) -> dict[str, Any]:
    """A request: most share a prefix with others, few end by EOS or a stop id before long."""
    prefix = draw(st.sampled_from(PREFIXES))
    own = draw(st.lists(st.integers(1, 3), max_size=3))
    max_tokens = draw(st.sampled_from([9, 6, 9, 14, 20, 3, None]))
    return {
        "prompt": prefix[: draw(st.integers(0, len(prefix)))] + own,
        "max_tokens": max_tokens,
        "min_tokens": draw(st.integers(0, 3)) if max_tokens is None or max_tokens > 2 else 0,
        "ignore_eos": draw(st.sampled_from([True, True, False])),
        "stop_token_ids": draw(st.sampled_from([[], [], [], [9, 10]])),
        "priority": draw(st.integers(0, 2)),
        "cache_salt": draw(st.sampled_from([None, None, None, None, "a", "b"])),
    }


@st.composite
def rounds(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Some arrive, something may go wrong, some steps pass."""
    actions = [("add", draw(arrivals())) for _ in range(draw(st.sampled_from([2, 1, 3, 0])))]
    accident = draw(st.sampled_from([None] * 8 + ["abort", "abort", "reset", "fail", "poison"]))
    if accident is not None:
        argument = {"abort": st.integers(1, 9), "fail": st.sampled_from(["early", "late"])}
        actions.append((accident, draw(argument.get(accident, st.none()))))
    return [*actions, ("step", draw(st.sampled_from([1, 2, 3, 5])))]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts = draw(st.lists(rounds(), min_size=2, max_size=7))
    actions = [action for part in parts for action in part]
    settings = draw(knobs())
    if draw(st.booleans()):
        # The later, the more urgent, and prompts run in pieces of several blocks: who comes first
        # in the batch gives way to who comes last, so that grants of the same step are taken back.
        settings |= {"policy": "priority", "long_prefill_token_threshold": draw(st.integers(3, 6))}
        for number, (kind, argument) in enumerate(actions):
            if kind == "add":
                argument["priority"] = len(actions) - number
    return Plan(settings, actions)


def _add(prompt: list[int], priority: int, max_tokens: int) -> tuple[str, Any]:
    return "add", {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "min_tokens": 0,
        "ignore_eos": True,
        "stop_token_ids": [],
        "priority": priority,
        "cache_salt": None,
    }


_ROOMY = {"block_size": 4, "max_model_len": 40, "max_num_seqs": 4, "max_num_batched_tokens": 64}
_LONG = [1, 2, 3, 1, 2, 3, 3] * 4

# What chance finds once in ten thousand plans.
GRANT_TAKEN_BACK = Plan(
    {**_ROOMY, "num_kv_blocks": 9, "policy": "priority", "long_prefill_token_threshold": 8},
    [_add(_LONG, 5, 2), ("step", 1), _add([2] * 8, 0, 2), ("step", 2), _add(_LONG[:22], 1, 2)],
)
"""The last request has the prompt of one whose blocks were hashed and then not computed."""

OUTGROWN_WHILE_WAITING = Plan(
    {**_ROOMY, "num_kv_blocks": 5}, [_add([1] * 8, 0, 4), _add([1] * 16, 0, 4)]
)
"""The second fills the pool together with the first, samples a token more, and gives way."""


# --- a run -------------------------------------------------------------------------------------

EOS = 5


class Run:
    """Carries a plan out and checks what must hold, after every input and every step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.config = make_config(**plan.knobs)
        self.executor = ContentExecutor(self.config)
        self.trace = recorder()
        self.events: list[Event] = []
        self.state = new_state()
        self.trace.log.subscribe(self._take_lines)
        self.core = EngineCore(self.config, self.executor, self.trace)
        self.messages: dict[str, EngineCoreRequest] = {}
        self.outputs: dict[str, list[EngineCoreOutput]] = {}
        self.aborted: set[str] = set()
        self.salts: dict[str, str | None] = {}
        self.content_of: dict[bytes, bytes] = {}  # a block's hash -> content of its last slot
        self.num_idle_steps = 0

    def _take_lines(self, stream: str, lines: list[bytes]) -> None:
        for line in lines:
            event = decode_event(line)
            self.events.append(event)
            apply(self.state, event)

    def run(self) -> Run:
        for operation, argument in self.plan.actions:
            if operation == "add":
                self.add(**argument)
            elif operation == "step":
                for _ in range(argument):
                    self.step()
            elif operation == "abort":
                self.abort(f"q{argument}")
            elif operation == "reset":
                used = self.core.kv.pool.num_free_blocks != self.core.kv.pool.num_usable_blocks
                assert self.core.reset_prefix_cache() is not used
            elif operation == "fail":
                self.executor.fail_next = argument
            elif operation == "poison":
                self.executor.poison_next = True
            self.keep(self.core.take_outputs().outputs)
            self.check()
        while self.core.has_requests():
            self.step()
        return self

    def add(self, prompt: list[int], priority: int, cache_salt: str | None, **params: Any) -> None:
        request_id = f"q{len(self.messages) + 1}"
        self.messages[request_id] = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(**params),
            eos_token_id=EOS,
            priority=priority,
            cache_salt=cache_salt,
        )
        self.salts[self.core.add_request(self.messages[request_id])] = cache_salt

    def abort(self, request_id: str) -> None:
        if request_id in self.messages and self.ended(request_id) is None:
            self.aborted.add(request_id)
        self.core.abort_request(request_id, Reason.CLIENT)

    def step(self) -> None:
        self.trace.flush()
        was_running, first = list(self.state.running), len(self.events)
        failed = self.executor.num_failed
        outputs = self.core.step().outputs
        self.keep(outputs)
        self.check()
        events = self.events[first:]
        errors = [e for e in events if e.kind == "run.error"]
        assert len(errors) == self.executor.num_failed - failed, errors
        self.check_step(was_running, events)
        ended = any(output.finish_reason for output in outputs)
        batch = next(e.data for e in events if e.kind == "batch.compose")
        if batch.tokens or ended or not self.core.has_requests():
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

    # --- what must hold --------------------------------------------------------------------

    def check(self) -> None:
        """After every input and every step."""
        self.trace.flush()
        assert fold_view(self.state) == engine_view(self.core)
        assert violations(self.state) == []
        self._check_salts()
        self._check_cached_contents()

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
        for name in self.state.waiting:
            assert self.state.requests[name].wait is not None, f"{name} waits without a reason"

    def check_end(self) -> None:
        """Every request ended as if it had run alone; nothing is left behind."""
        for request_id, message in self.messages.items():
            tokens = [t for o in self.outputs[request_id] for t in o.new_token_ids]
            expected, reason = self.alone(message)
            ended = self.ended(request_id)
            if ended in ("abort", "error") and ended != reason:
                assert request_id in self.aborted or ended == "error"
                assert tokens == expected[: len(tokens)]
                if ended == "error":
                    assert any(op in ("fail", "poison") for op, _ in self.plan.actions)
            else:
                assert (tokens, ended) == (expected, reason), request_id
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
            token_id = next_token(prompt + output)
            assert token_id < VOCABULARY
            output.append(token_id)
            if len(output) >= params.min_tokens:
                if token_id == EOS and not params.ignore_eos:
                    return output, "stop"
                if token_id in params.stop_token_ids:
                    return output, "stop"
            num_tokens = len(prompt) + len(output)
            if len(output) == params.max_tokens or num_tokens in (max_len, capacity + 1):
                return output, "length"
