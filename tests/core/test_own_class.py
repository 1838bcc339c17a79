"""Schedulers and KV managers of one's own: by path, by file, as a class; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minivllm.core.scheduler import Scheduler
from minivllm.errors import ConfigError
from tests.core.builders import Engine

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
