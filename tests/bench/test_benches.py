"""The benchmarks measure what they say: the lengths, the engine without its trace, the bars."""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from statistics import fmean

import pytest

from minivllm.bench import kv_waste, scheduling, tracing
from minivllm.bench.kv_waste_svg import draw
from minivllm.bench.stripped import strip, stripped_engine_core, telling_modules
from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.tracer import Tracer


def test_kv_waste_is_of_the_papers_kind() -> None:
    systems = kv_waste.run_all(kv_waste.lengths(96))
    most, limit, oracle, paged = systems
    assert most.token_states < limit.token_states < oracle.token_states < paged.token_states
    assert most.token_states < 0.25 and paged.token_states > 0.9
    assert most.never_used > limit.never_used > oracle.never_used > paged.never_used
    assert paged.scattered == 0 < limit.scattered
    assert most.running < limit.running < oracle.running < paged.running
    assert most.steps > limit.steps > oracle.steps > paged.steps
    for row in systems:
        parts = (row.token_states, row.reserved, row.never_used, row.scattered, row.too_few)
        assert sum(parts) == pytest.approx(1), "somebody waits, so nothing is simply free"


def test_workload_of_kv_waste_is_always_the_same() -> None:
    assert kv_waste.lengths(96) == kv_waste.lengths(200)[:96] != kv_waste.lengths(96, seed=2)
    assert kv_waste.lengths(2) == [kv_waste.Length(179, 202), kv_waste.Length(334, 565)]
    many = kv_waste.lengths(5000)
    assert 130 < fmean(n.prompt for n in many) < 165
    assert 270 < fmean(n.output for n in many) < 340
    assert [kv_waste.power_of_two(n) for n in (1, 4, 5, 1000, 1024)] == [1, 4, 8, 1024, 1024]


def test_picture_has_a_bar_for_each_share() -> None:
    row = kv_waste.Waste(
        system="paged",
        token_states=0.9,
        reserved=0.05,
        never_used=0.0,
        scattered=0.0,
        too_few=0.05,
        running=3,
        steps=9,
        counted=5,
        preemptions=0,
    )
    root = ET.fromstring(draw([row]))
    space = "{http://www.w3.org/2000/svg}"
    bars = [r for r in root.iter(f"{space}rect") if r.get("height") == "30"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths == pytest.approx([590.4, 32.8, 0, 0, 32.8], abs=0.1)
    texts = {text.text: text for text in root.iter(f"{space}text")}
    assert "90 %" in texts
    title, label = texts["What the KV memory holds while somebody waits for it"], texts["paged"]
    for attribute in ("x", "text-anchor"):
        assert label.get(attribute) == title.get(attribute), "labels begin where the title does"


def test_stripped_source_has_lost_what_tells_and_nothing_else() -> None:
    source = """
def f(self, trace):
    if self.full:
        self.trace.emit(A, 1, n=2)
    for x in y:
        trace.emit(B, None)
    text = self.trace.text(3)
    words = other.text(3)
    if trace.on:
        g()
    if self.trace.on:
        g()
    else:
        h()
    return words
"""
    tree, removed = strip(source)
    assert removed == 4
    assert ast.unparse(tree) == ast.unparse(
        ast.parse("""
def f(self, trace):
    if self.full:
        pass
    for x in y:
        pass
    words = other.text(3)
    if self.trace.on:
        g()
    else:
        h()
    return words
""")
    )


class Listening(Tracer):
    """On, and counts what it is told."""

    on = True

    def __init__(self) -> None:
        self.told = 0

    def emit(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        self.told += 1


def test_engine_without_trace_decides_the_same_and_tells_nothing() -> None:
    modules = [*telling_modules(), "minivllm.core.step"]
    before = {name: sys.modules.get(name) for name in modules}
    stripped = stripped_engine_core()
    assert {name: sys.modules.get(name) for name in modules} == before
    assert stripped.EngineCore is not EngineCore
    import minivllm.core.scheduler as ordinary

    assert ordinary is before["minivllm.core.scheduler"]

    config = make_config(num_kv_blocks=12, block_size=4, max_model_len=64, max_num_seqs=4)
    said, told = [], []
    for build in (EngineCore, stripped.EngineCore):
        trace = Listening()
        engine = build(config, ScriptedExecutor(config), trace)
        tracing._fill(engine, batch=3, max_tokens=12)
        outputs = []
        while engine.has_requests():
            outputs += [(o.request_id, o.new_token_ids) for o in engine.step().outputs]
        said.append(outputs)
        told.append(trace.told)
    assert said[0] == said[1] != []
    assert told[0] > 100 and told[1] == 0


def test_scheduling_points_run_in_turns_and_count_only_decode_steps() -> None:
    points = scheduling.run([(4, 100), (8, 100)], rounds=2)
    for point in points:
        assert len(point.schedule_ns) == len(point.update_ns) == 2 * scheduling.STEPS
        assert point.schedule_ms > 0


def test_trace_cost_measures_as_many_steps_of_each_variant() -> None:
    cost = tracing.run(steps=9, batch=2)
    assert {name: len(ns) for name, ns in cost.ns.items()} == dict.fromkeys(tracing.VARIANTS, 9)
    assert cost.extra_ns("removed") == 0
