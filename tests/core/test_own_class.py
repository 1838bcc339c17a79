"""Schedulers and KV managers of one's own: by path, by file, as a class; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from minivllm.config import make_config
from minivllm.core.contiguous import ContiguousKVManager
from minivllm.core.interfaces import PrefixHit, Shortage
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler
from minivllm.errors import ConfigError, OwnClassError
from minivllm.scenario import make_header
from minivllm.trace.fold import fold
from minivllm.trace.story import story
from tests.core.builders import Engine, message
from tests.helpers import events_of

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def admitted(engine: Engine) -> list[str | None]:
    return [event.req for event in engine.events("req.admit")]


def run_three(**knobs: Any) -> Engine:
    engine = Engine(max_num_seqs=1, **knobs)
    for name, prompt in (("long", 12), ("short", 2), ("middle", 6)):
        engine.add(name, list(range(prompt)), max_tokens=2)
    return engine.run()


def test_the_example_scheduler_admits_the_shortest_first() -> None:
    assert admitted(run_three()) == ["r1", "r2", "r3"]
    path = f"{ROOT}/examples/shortest_first.py:ShortestFirst"
    assert admitted(run_three(scheduler_cls=path)) == ["r2", "r3", "r1"]


def test_the_example_kv_manager_takes_the_tightest_gap() -> None:
    def tables(kv_manager_cls: str) -> list[list[int]]:
        engine = Engine(
            kv_manager_cls=kv_manager_cls,
            enable_prefix_caching=False,
            contiguous_reserve="request",
            num_kv_blocks=11,
        )
        for name, prompt, output in (("q1", 10, 2), ("q2", 3, 9), ("q3", 3, 1), ("q4", 3, 9)):
            engine.add(name, prompt, max_tokens=output)
        engine.step(), engine.step()
        engine.add("late", 3, max_tokens=1)  # gaps: 3 blocks (q1's) and 1 (q3's)
        engine.run()
        return [event.data.blocks for event in engine.events("kv.reserve")]

    assert tables("contiguous")[-1] == [1]
    assert tables(f"{ROOT}/examples/best_fit.py:BestFit")[-1] == [7]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_under_40_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40


def test_there_is_an_example_of_each() -> None:
    assert {path.stem for path in EXAMPLES} >= {"shortest_first", "best_fit"}


def test_a_class_is_taken_as_it_is_and_named_in_the_trace() -> None:
    class Mine(Scheduler):
        pass

    engine = Engine(scheduler_cls=Mine)
    assert isinstance(engine.core.scheduler, Mine)
    name = engine.events("run.config")[0].data.scheduler_cls
    assert name.endswith("Mine") and name.startswith(__name__)


def test_a_dotted_path_is_imported() -> None:
    engine = Engine(scheduler_cls="minivllm.core.scheduler.Scheduler")
    assert type(engine.core.scheduler) is Scheduler


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no.such.module.Class", "No module named"),
        ("minivllm.core.scheduler.Nobody", "has no 'Nobody'"),
        ("nowhere.py:Class", "is no Python file"),
        ("minivllm.core.scheduler.QUEUES", "it is no class"),
        ("minivllm.core.ends.Ends", "it lacks"),
    ],
)
def test_what_cannot_serve_is_named(path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(scheduler_cls=path)
    assert caught.value.field == "scheduler_cls" and words in str(caught.value)


def test_a_file_that_fails_says_how(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        Engine(kv_manager_cls=f"{file}:Mine", enable_prefix_caching=False)


def test_a_file_that_ends_the_process_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import sys; sys.exit(0)")
    with pytest.raises(ConfigError, match=r"kv_manager_cls: .*mine\.py:Mine.*SystemExit"):
        Engine(kv_manager_cls=f"{file}:Mine")


def test_what_cannot_share_blocks_says_so_itself() -> None:
    class Mine(ContiguousKVManager):
        pass

    with pytest.raises(ConfigError, match=r"Mine.*only with enable_prefix_caching off"):
        Engine(kv_manager_cls=Mine)
    assert isinstance(Engine(kv_manager_cls=Mine, enable_prefix_caching=False).core.kv, Mine)


# --- classes that are wrong -----------------------------------------------------------------------


def own(base: type, method: str, result: Any) -> type:
    """A class whose method returns what it should not; ``result`` may be called with (self, right
    result)."""

    def wrong(self: Any, *args: Any) -> Any:
        right = getattr(super(cls, self), method)(*args)
        return result(self, right) if callable(result) else result

    cls = type("Mine", (base,), {method: wrong})
    return cls


def leave(*_: Any) -> None:
    raise SystemExit(0)


KV_FAULTS = {
    "allocates None": ("allocate_slots", None, "must return a list of block ids or Shortage"),
    "no such block": ("allocate_slots", [99], "gave block 99; there are blocks 1 to 16"),
    "a block twice": ("allocate_slots", lambda _, right: right * 2, "gave a block twice"),
    "not in the table": (
        "allocate_slots",
        [9],
        r"gave \[9\], which are not the last of r1's table",
    ),
    "no table": ("block_ids", [], "which are not the last of r1's table|left r1 0 blocks"),
    "a hit of nothing": ("find_prefix", PrefixHit([], 4), "gave 0 blocks for a hit of 4 tokens"),
    "a hit that is None": ("find_prefix", None, "must return PrefixHit, got None"),
    "no number": ("num_blocks_to_start", None, "must return a number of blocks, got None"),
    "a yes": ("shortage", True, "must return Shortage or None, got True"),
    "it leaves": ("find_prefix", leave, "has called sys.exit"),
    "never room": ("shortage", Shortage(1, 0), "let no token run for 1000 steps, though r1"),
}


@pytest.mark.parametrize("fault", KV_FAULTS)
def test_a_kv_manager_that_breaks_a_promise_is_named(fault: str) -> None:
    method, result, words = KV_FAULTS[fault]
    engine = Engine(kv_manager_cls=own(KVCacheManager, method, result))
    name = "Mine" if fault == "never room" else rf"Mine\.({method}|allocate_slots)\(\)"
    with pytest.raises(OwnClassError, match=f"{name}.*({words})"):
        engine.core.add_request(message("q", 6))
        while True:
            engine.core.step()


def test_the_trace_of_a_hit_without_blocks_can_be_told() -> None:
    """One that an engine without these checks wrote."""
    engine = Engine(kv_manager_cls="paged")
    engine.add("q", 6)
    engine.step()
    events = [e for e in events_of(engine.trace) if e.step == 1]
    admit = next(e for e in events if e.kind == "req.admit")
    wrong = replace(admit, data=replace(admit.data, hit=4))
    told = story(fold(()), [wrong if e is admit else e for e in events])
    assert "are already in no block" in told.headline


@pytest.mark.parametrize("method", ["schedule", "update_from_output"])
def test_a_scheduler_that_returns_nothing_is_named(method: str) -> None:
    engine = Engine(scheduler_cls=own(Scheduler, method, None))
    engine.core.add_request(message("q", 6))
    with pytest.raises(OwnClassError, match=rf"Mine\.{method}\(\) must return \w+, got None"):
        engine.core.step()


@pytest.mark.parametrize(
    ("field", "base", "takes"),
    [
        ("kv_manager_cls", KVCacheManager, "num_blocks, config, max_model_len, trace"),
        ("scheduler_cls", Scheduler, "config, kv, max_model_len, trace"),
    ],
)
def test_a_constructor_that_takes_or_leaves_something_else_is_named(
    field: str, base: type, takes: str
) -> None:
    takes_none = type("Mine", (base,), {"__init__": lambda self: None})
    with pytest.raises(ConfigError, match=rf"{field}: .*Mine.*takes \({takes}\).*TypeError"):
        Engine(**{field: takes_none})
    makes_none = type("Mine", (base,), {"__init__": lambda self, *_: None})
    with pytest.raises(ConfigError, match=f"{field}: .*Mine.*after __init__ it lacks "):
        Engine(**{field: makes_none})


def test_a_class_that_keeps_its_promises_runs_as_the_shipped_one() -> None:
    class Mine(KVCacheManager):
        pass

    class Own(Scheduler):
        pass

    decisions = ("sched.grant", "kv.hit", "kv.alloc", "kv.free", "req.preempt")
    runs = [run_three(), run_three(kv_manager_cls=Mine, scheduler_cls=Own)]
    first, second = ([e.data for kind in decisions for e in r.events(kind)] for r in runs)
    assert first == second


def test_a_class_itself_stands_in_a_traces_header_by_its_name() -> None:
    config = make_config(scheduler_cls=Scheduler, kv_manager_cls=KVCacheManager, live=True)
    written = make_header(config, None).config
    assert written["scheduler"]["scheduler_cls"] == "minivllm.core.scheduler.Scheduler"
    assert written["cache"]["kv_manager_cls"].endswith(".KVCacheManager")
