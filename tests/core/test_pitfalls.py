"""What other engines fell into, in the scheduler, the pool and the trace: one test for each.

Where tokens matter, the executor has K and V in miniature (``content_executor.py``): whoever reads
a wrong block says a wrong token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import minivllm
from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.scenario import make_header
from minivllm.trace.events import Reason
from minivllm.trace.file import decode_event
from minivllm.trace.fold import fold
from minivllm.trace.tracer import Tracer
from tests.core.builders import SMALL, Engine, Scheduling, message, tokens
from tests.core.content_executor import ContentExecutor, next_token
from tests.helpers import engine_view, fold_view

PROMPT = tokens(40)


def engine(**knobs: Any) -> Engine:
    return Engine(executor=ContentExecutor, **knobs)


def alone(prompt: list[int], n: int) -> list[int]:
    """The n tokens that follow a prompt, whatever the scheduling."""
    output: list[int] = []
    for _ in range(n):
        output.append(next_token(prompt + output))
    return output


def test_prefix_hit_with_chunked_prefill_runs_each_token_once_and_at_its_place() -> None:
    """nano-vllm 212, 213: the chunk after a hit ends at hit + chunk."""
    e = engine(max_num_batched_tokens=6)
    e.add("a", PROMPT[:16], max_tokens=1)
    e.run()
    e.add("b", PROMPT[:30], max_tokens=3)
    e.run()
    grants = [(g.data.start, g.data.n) for g in e.events("sched.grant") if g.req == "r2"]
    assert grants == [(16, 6), (22, 6), (28, 2), (30, 1), (31, 1)]
    assert e.said("b") == alone(PROMPT[:30], 3)


def test_preempted_request_that_hits_its_own_cache_runs_only_what_is_missing() -> None:
    """nano-vllm 207, 211, 233: the count must follow the lookup."""
    e = engine(num_kv_blocks=8)
    e.add("a", tokens(11, 500), max_tokens=3)
    e.add("b", PROMPT[:15], max_tokens=6)
    e.run()
    (resume,) = e.events("req.resume")
    assert (resume.req, resume.data.hit, resume.data.tokens) == ("r2", 12, 17)
    (grant,) = [g for g in e.events("sched.grant") if g.data.why == "resume"]
    assert (grant.data.start, grant.data.n) == (12, 5)
    assert e.said("b") == alone(PROMPT[:15], 6)


def test_hit_on_blocks_that_are_filled_in_the_same_batch() -> None:
    """nano-vllm 208: allowed here, since all K and V are written before any is read."""
    e = engine()
    e.add("a", PROMPT[:20], max_tokens=2)
    e.add("b", PROMPT[:18], max_tokens=2)
    e.step()
    assert [a.data.hit for a in e.events("req.admit")] == [0, 16]
    e.run()
    assert (e.said("a"), e.said("b")) == (alone(PROMPT[:20], 2), alone(PROMPT[:18], 2))


@pytest.mark.parametrize("num_tokens", [4, 8, 16])
def test_full_prefix_hit_leaves_one_token_to_run(num_tokens: int) -> None:
    """nano-vllm 144. A block, in fact: only whole blocks are shared."""
    e = engine()
    for name in "ab":
        e.add(name, PROMPT[:num_tokens], max_tokens=2)
        e.run()
    grants = [g.data for g in e.events("sched.grant") if g.req == "r2"]
    assert (grants[0].start, grants[0].n) == (num_tokens - 4, 4)
    assert e.said("b") == alone(PROMPT[:num_tokens], 2)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("caching", [True, False])
def test_resumed_request_neither_forgets_nor_repeats_what_it_said(
    policy: str, caching: bool
) -> None:
    """nano-vllm 217."""
    e = engine(num_kv_blocks=9, policy=policy, enable_prefix_caching=caching)
    for i, name in enumerate("abcd"):
        e.add(name, PROMPT[i : i + 6], max_tokens=12)
    e.run()
    preemptions = [f.data.preemptions for f in e.events("req.finish")]
    assert sum(preemptions) > 0, "the pool is so small that somebody gives way"
    for i, name in enumerate("abcd"):
        assert e.said(name) == alone(PROMPT[i : i + 6], 12)
    e.assert_nothing_leaked()


def test_sequence_that_outgrows_the_pool_ends_by_length() -> None:
    """nano-vllm 274: no assertion, no waiting for ever, and the others go on."""
    e = engine(num_kv_blocks=6)
    e.add("a", PROMPT[:10], max_tokens=50)
    e.add("b", tokens(4, 500), max_tokens=5)
    e.run()
    assert e.ended("a") == "length" and e.said("a") == alone(PROMPT[:10], 11)
    finish = next(f for f in e.events("req.finish") if f.req == "r1")
    assert finish.data.why == Reason.LARGER_THAN_POOL
    assert e.said("b") == alone(tokens(4, 500), 5)
    e.assert_nothing_leaked()


def test_sequence_that_outgrew_the_pool_while_it_waits_does_not_wait_for_ever() -> None:
    e = engine(num_kv_blocks=5)
    e.add("a", PROMPT[:8], max_tokens=4)
    e.add("b", PROMPT[:16], max_tokens=4)
    e.add("c", PROMPT[:5], max_tokens=4)
    e.run(max_steps=50)
    assert [e.ended(name) for name in "abc"] == ["length"] * 3
    assert [len(e.said(name)) for name in "abc"] == [4, 1, 4]


def test_prompt_larger_than_the_pool_is_refused_and_holds_nobody_up() -> None:
    """vllm 1534."""
    e = engine(num_kv_blocks=5)
    e.add("a", PROMPT[:17])
    e.add("b", PROMPT[:5], max_tokens=2)
    e.run()
    assert (e.ended("a"), e.ended("b")) == ("error", "length")


def test_overlong_prompt_gets_an_answer() -> None:
    """mini-sglang: only a log line, and the client waits for ever."""
    e = engine()
    e.add("a", tokens(64))
    (output,) = e.take()
    assert output.finish_reason == "error" and "max_model_len is 64" in str(output.stop_reason)


def test_running_request_gets_a_token_in_every_step_while_prompts_keep_arriving() -> None:
    """nano-vllm runs prompts first."""
    e = engine(max_num_batched_tokens=8)
    e.add("a", PROMPT[:4], max_tokens=20)
    for i in range(20):
        e.add(f"new{i}", tokens(20, 100 * i), max_tokens=1)
        assert "a" in [o.request_id for o in e.step()], f"step {i + 1}"
    assert e.ended("a") == "length"


def test_long_prompts_are_not_let_in_to_preempt_one_another() -> None:
    """vllm 7753, 16832, 25538: two of them fit, so the third waits instead of thrashing."""
    e = engine(num_kv_blocks=17, max_num_batched_tokens=8, enable_prefix_caching=False)
    for i in range(6):
        e.add(f"q{i}", tokens(28, 100 * i), max_tokens=2)
    e.run()
    assert e.events("req.preempt") == []


def test_preemption_does_not_let_the_victim_in_again_at_once() -> None:
    e = engine(num_kv_blocks=7, enable_prefix_caching=False)
    for i in range(3):
        e.add(f"q{i}", tokens(8, 100 * i), max_tokens=9)
    e.run()
    assert e.events("req.preempt")
    steps = {p.step for p in e.events("req.preempt")}
    assert not steps & {r.step for r in e.events("req.resume") + e.events("req.admit")}


def test_sharing_a_block_counts_it_and_giving_it_back_uncounts_it() -> None:
    """Reference counts that an allocation resets leak blocks until the pool is empty."""
    e = engine()
    for rounds in range(30):
        for name in "abc":
            e.add(f"{name}{rounds}", PROMPT[:18], max_tokens=2)
        e.step()
        refs = sorted(b.ref_cnt for b in e.core.kv.pool.blocks[1:] if b.ref_cnt)
        assert refs == [1, 1, 1, 3, 3, 3, 3]
        e.run()
        e.assert_nothing_leaked()


@pytest.mark.parametrize("num_prompt", range(1, 10))
def test_room_and_growth_agree_at_every_block_border(num_prompt: int) -> None:
    """Small engines: ``can_append`` and ``append`` disagree by one."""
    e = engine(num_kv_blocks=5)
    e.add("a", PROMPT[:num_prompt], max_tokens=50)
    while e.core.has_requests():
        e.step()
        for one in e.core.scheduler.running:
            assert len(e.core.kv.block_ids(one)) == -(-one.num_computed_tokens // 4)
    assert num_prompt + len(e.said("a")) == 17, "16 in the pool, and the token that they say"


@pytest.mark.parametrize("when", ["waiting", "mid_prefill", "just_preempted"])
def test_abort_leaks_no_block(when: str) -> None:
    """vllm 46283, 54947, sglang 38355."""
    e = engine(num_kv_blocks=6, max_num_batched_tokens=6)
    e.add("a", PROMPT[:4], max_tokens=12)
    e.add("b", tokens(10, 500), max_tokens=8)
    status = {"waiting": "waiting", "mid_prefill": "running", "just_preempted": "preempted"}[when]
    if when == "waiting":
        e.core.abort_request("a", Reason.CLIENT)
        e.take()
    else:
        e.step()
    while when == "just_preempted" and not e.events("req.preempt"):
        e.step()
    two = e.core.scheduler.requests["r2"]
    assert two.status.value == status and (two.num_computed_tokens > 0) == (when == "mid_prefill")
    e.core.abort_request("b", Reason.CLIENT)
    assert [o.finish_reason for o in e.take()] == ["abort"]
    e.run()
    e.assert_nothing_leaked()


def test_finish_reason_tells_how_it_ended() -> None:
    """mini-sglang, mini-infer: always "stop"."""
    first = alone(PROMPT[:6], 1)[0]
    e = engine(max_model_len=12)
    e.add("eos", PROMPT[:6], eos_token_id=first, ignore_eos=False)
    e.add("stop id", PROMPT[:6], stop_token_ids=[first])
    e.add("length", PROMPT[:6], max_tokens=1)
    e.add("context", PROMPT[:6], max_tokens=None)
    e.run()
    ends = {name: (e.ended(name), outputs[-1].stop_reason) for name, outputs in e.outputs.items()}
    assert ends == {
        "eos": ("stop", None),
        "stop id": ("stop", first),
        "length": ("length", None),
        "context": ("length", None),
    }


class Listening(Tracer):
    """A tracer that is off, and hears what is prepared for it all the same."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def emit(self, kind: Any, req: str | None, /, *args: Any, **kwargs: Any) -> None:
        self.heard += kwargs.values()


def test_nothing_is_formatted_for_a_trace_that_is_off() -> None:
    """vllm 4261: debug strings in the hot loop took 9 of a step's 11 ms."""
    e, trace = engine(num_kv_blocks=9), Listening()
    core = EngineCore(e.core.config, ContentExecutor(e.core.config), trace)
    for i in range(4):
        core.add_request(message(f"q{i}", tokens(6), max_tokens=6))
    while core.has_requests():
        core.step()
    assert trace.heard
    assert not [text for text in trace.heard if isinstance(text, str) and " " in text]
    lists = [rows for rows in trace.heard if isinstance(rows, list)]
    assert not [rows for rows in lists if any(isinstance(row, msgspec.Struct) for row in rows)]


def test_removal_of_one_copy_is_not_removal_of_the_hash() -> None:
    """vllm 48933, 55092. Two requests fill equal blocks at the same time; one copy is taken."""
    s = Scheduling(num_kv_blocks=5, max_num_batched_tokens=6)
    s.add(1, PROMPT[:7])
    s.add(2, PROMPT[:7])
    s.configure(long_prefill_token_threshold=3)
    s.step()  # 3 tokens each: nobody can hit anything yet
    s.step()  # both fill their first block
    (first, second) = (event.data for event in s.told("kv.cache"))
    assert first.hash == second.hash and first.block != second.block
    s.scheduler.finish(s.scheduler.requests["r1"], "abort", why=Reason.CLIENT)
    s.configure(long_prefill_token_threshold=0)
    s.add(3, tokens(5, 500))
    s.step()
    assert [event.data.block for event in s.told("kv.evict")] == [first.block]
    s.add(4, PROMPT[:5])
    hit = s.kv.find_prefix(s.scheduler.requests["r4"])
    assert [block.block_id for block in hit.blocks] == [second.block]


def test_victim_of_its_own_step_leaves_no_hashes_of_what_was_not_computed() -> None:
    """vllm pull request 43569: the next request would hit garbage."""
    e = engine(policy="priority", num_kv_blocks=9, long_prefill_token_threshold=8)
    low, high = PROMPT[:28], tokens(8, 500)
    e.add("low", low, max_tokens=2, priority=5)
    e.add("brief", tokens(1, 900), max_tokens=1)  # alone, low would have the whole budget
    e.step()
    e.add("high", high, max_tokens=2, priority=0)
    e.step()
    e.step()  # low is given two more blocks; high needs one of them
    assert [(r.req, r.step, r.data.n) for r in e.events("sched.refund")] == [("r1", 3, 8)]
    assert len(e.events("kv.uncache")) == 2
    e.add("next", PROMPT[:22], max_tokens=2, priority=1)
    e.run()
    assert [a.data.hit for a in e.events("req.admit") if a.req == "r4"] == [16]
    assert e.said("next") == alone(PROMPT[:22], 2)
    assert (e.said("low"), e.said("high")) == (alone(low, 2), alone(high, 2))


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("budget", [3, 7, 64])
@pytest.mark.parametrize("usable_blocks", [9, 12, 40])
def test_neither_caching_nor_budget_nor_preemption_changes_a_token(
    caching: bool, budget: int, usable_blocks: int
) -> None:
    e = engine(
        num_kv_blocks=usable_blocks + 1,
        enable_prefix_caching=caching,
        max_num_batched_tokens=budget,
    )
    prompts = {f"q{i}": PROMPT[: 6 + 3 * i] for i in range(6)}
    for name, prompt in prompts.items():
        e.add(name, prompt, max_tokens=8)
    e.run()
    assert {name: e.said(name) for name in prompts} == {
        name: alone(prompt, 8) for name, prompt in prompts.items()
    }


def test_seed_of_a_request_does_not_depend_on_its_company() -> None:
    """vllm 51226."""

    def seeds(*given: int | None) -> list[int]:
        e = engine()
        for i, seed in enumerate(given):
            e.add(f"q{i}", 4, seed=seed)
        return [one.seed for one in e.core.scheduler.requests.values()]

    assert seeds(7, None, 7) == [7, seeds(None, None)[1], 7]
    assert len(set(seeds(None, None, None))) == 3


def test_viewer_that_comes_back_knows_what_it_missed() -> None:
    """vllm 50134: without numbers, the view after a reconnect is wrong and does not know."""
    e = engine()
    log = e.trace.log
    log.retention = 60
    e.add("a", PROMPT[:8], max_tokens=20)
    state = e.state()
    seen = state.seq
    e.step()
    missed = [
        decode_event(line) for line in log.lines("engine0", seen + 1, log.head_seq("engine0"))
    ]
    assert [event.seq for event in missed] == list(range(seen + 1, e.trace.seq + 1))
    assert fold_view(fold(missed, state)) == engine_view(e.core)
    while log.first_seq("engine0") <= seen + 1:
        e.core.step()
    rest = log.lines("engine0", seen + 1, log.head_seq("engine0"))
    assert decode_event(rest[0]).seq == log.first_seq("engine0") > seen + 1, "a gap that shows"


def test_trace_names_its_run() -> None:
    """Two runs number their events alike; the header tells them apart."""
    config = make_config(**SMALL)
    ids = {make_header(config, ContentExecutor(config)).run_id for _ in range(10)}
    assert len(ids) == 10


def test_nothing_is_pickled() -> None:
    """Several advisories of vLLM: a pickle from a socket is code that runs."""
    forbidden = re.compile(
        r"^\s*(import|from)\s+(pickle|cloudpickle|dill|marshal|shelve)\b|torch\.load\(|(?<![.\w])eval\(",
        re.MULTILINE,
    )
    root = Path(minivllm.__file__).parent
    sources = sorted(root.rglob("*.py"))
    assert len(sources) > 30
    found = [
        f"{path.name}: {match.group()}"
        for path in sources
        for match in forbidden.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


# --- n samples of one prompt ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tokens", "num_shared"), [(3, 0), (4, 0), (5, 4), (15, 12), (16, 12), (17, 16)]
)
def test_samples_of_one_prompt_share_its_blocks_in_their_first_step(
    num_tokens: int, num_shared: int
) -> None:
    """Of a prompt of exactly k full blocks k − 1 are hit: the last token must run."""
    e = engine()
    for i in range(4):
        e.add(f"{i}_q", PROMPT[:num_tokens], max_tokens=3, parent="q")
    assert len(e.step()) == 4
    hits = {event.req: event.data.tokens for event in e.events("kv.hit")}
    assert hits == ({f"r{i}": num_shared for i in (2, 3, 4)} if num_shared else {})
    shared = num_shared // 4
    tables = [e.core.kv.block_ids(r)[:shared] for r in e.core.scheduler.running]
    assert all(table == tables[0] for table in tables)
    assert all(e.core.kv.pool.blocks[b].ref_cnt == 4 for b in tables[0])
    e.run()
    assert all(e.said(f"{i}_q") == alone(PROMPT[:num_tokens], 3) for i in range(4))
    e.assert_nothing_leaked()


def test_samples_behind_one_that_scores_the_prompt_share_its_blocks() -> None:
    e = engine()
    e.add("0_q", PROMPT[:16], max_tokens=1, parent="q", prompt_logprobs=0)
    e.add("1_q", PROMPT[:16], max_tokens=1, parent="q")
    e.step()
    assert [(h.req, h.data.tokens) for h in e.events("kv.hit")] == [("r2", 12)]
    assert [m.data.reason for m in e.events("kv.miss")] == [
        Reason.PROMPT_LOGPROBS,
        Reason.LAST_TOKEN,
    ]
