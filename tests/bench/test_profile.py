"""``bench profile``: times are exclusive and add up, timers are taken off again, the picture holds
every stage. Small models on each way that a CPU has; no test looks at how long anything takes."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from typer.testing import CliRunner

from minivllm.bench import compare, profile
from minivllm.bench.compare import Turn, Workload
from minivllm.bench.profile import DECODE, PROMPT, STAGES, Kind, Least, Profile
from minivllm.bench.profile_svg import WIDTH, Bar, draw
from minivllm.bench.roofline import Roofline
from minivllm.bench.timers import BETWEEN, REST, Timers, replace
from minivllm.cli.main import app
from minivllm.engine.llm import LLM
from minivllm.errors import SetupError
from minivllm.models.llama import LlamaLayer
from minivllm.models.packed import PackedLayer
from minivllm.models.quantized import QuantizedLayer
from minivllm.native import codes
from tests.conftest import RunPython
from tests.model.builders import reference_model, save_gguf
from tests.native.sequences import needs_codes

SVG = "{http://www.w3.org/2000/svg}"
LAYERS = {"float32": LlamaLayer, "packed": PackedLayer, "codes": QuantizedLayer}
PRODUCTS = {"before_products", "after_products"}


def _turn(rng: random.Random) -> Turn:
    prompts = [[rng.randrange(200) for _ in range(length)] for length in (5, 9)]
    return Turn(prompts, [4, 7])


TINY = Workload("W1", "two of a few tokens", "output tok/s", _turn)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "tiny.gguf"
    reference = reference_model("llama", vocab_size=288)
    return save_gguf(reference, path, gguf.GGMLQuantizationType.Q4_1, tokenizer=True).path


@pytest.fixture(params=["float32", "packed", pytest.param("codes", marks=needs_codes)])
def llm(
    request: pytest.FixtureRequest, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LLM]:
    if request.param == "packed":
        monkeypatch.setattr(codes, "available", lambda: False)
    dtype = "float32" if request.param == "float32" else "bfloat16"
    with LLM(str(checkpoint), dtype=dtype, num_kv_blocks=64) as made:
        core: Any = profile.core_of(made)
        assert type(core.executor.worker.model.layers[0]) is LAYERS[request.param]
        yield made


class Clock:
    """Time passes by hand."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_times_are_exclusive_and_add_up() -> None:
    clock = Clock()
    timers = Timers(clock)

    def inner() -> None:
        clock.now += 3

    def outer() -> None:
        clock.now += 10
        timers.timed("head", inner)()
        clock.now += 20

    clock.now += 1_000  # before the first step: nobody's
    for _ in range(2):
        timers.begin_step()
        clock.now += 100
        timers.timed("sampler", outer)()
        timers.leave()
        clock.now += 7
    timers.finish()
    expected = {"head": 3, "sampler": 30, REST: 100, BETWEEN: 7}
    assert [step.ns for step in timers.steps] == [expected, expected]
    assert timers.num_calls == 4


def test_a_layer_becomes_another_stage_on_its_way_and_an_error_leaves_all() -> None:
    clock = Clock()
    timers = Timers(clock)

    def layer() -> None:
        clock.now += 5
        timers.become("after")
        clock.now += 6
        raise ValueError

    timers.begin_step()
    with pytest.raises(ValueError):
        timers.timed("before", layer)()
    assert timers.stage == REST
    clock.now += 1
    timers.leave()
    assert timers.stage == BETWEEN
    assert timers.steps[0].ns == {REST: 1, "before": 5, "after": 6}


def test_what_was_replaced_is_put_back_also_after_an_error() -> None:
    class Thing:
        def method(self) -> int:
            return 1

    thing = Thing()
    own = thing.__dict__["own"] = object()
    with pytest.raises(ValueError), ExitStack() as undo:
        replace(undo, thing, "method", lambda: 2)
        replace(undo, thing, "method", lambda: 3)
        replace(undo, thing, "own", None)
        assert thing.method() == 3
        raise ValueError
    assert vars(thing) == {"own": own} and thing.method() == 1


def _attributes(llm: LLM) -> dict[str, Any]:
    """All that timers might hang on, by whose it is and its name."""
    core: Any = profile.core_of(llm)
    runner = core.executor.worker.runner
    owners = {
        "core": core,
        "scheduler": core.scheduler,
        "stats": core.stats,
        "trace": core.trace,
        "runner": runner,
        "batch": runner.batch,
        "inputs": runner.inputs,
        "backend": runner.backend,
        **{f"model.{name}": module for name, module in runner.model.named_modules()},
    }
    return {
        f"{name}.{key}": value
        for name, owner in owners.items()
        for key, value in vars(owner).items()
        if callable(value) and not isinstance(value, torch.nn.Module)
    }


def test_every_way_through_a_model_is_split_and_left_as_it_was(llm: LLM) -> None:
    before = _attributes(llm)
    found = profile.run(llm, TINY, random.Random(1))
    assert _attributes(llm) == before
    prompt, decode = found.kinds
    assert (prompt.name, prompt.num_steps, prompt.num_tokens) == (PROMPT, 1, 14)
    assert (decode.name, decode.num_steps, decode.num_tokens) == (DECODE, 6, 9)
    core: Any = profile.core_of(llm)
    apart = type(core.executor.worker.model.layers[0]) is LlamaLayer
    claimed = set(STAGES) if apart else set(STAGES) - PRODUCTS
    for kind in found.kinds:
        assert {stage for stage, ns in kind.ns.items() if ns} == claimed
        assert sum(map(kind.share, STAGES)) == pytest.approx(1)
        assert sum(map(kind.ms, STAGES)) == pytest.approx(kind.total_ms)
    assert ("SiLU" in profile.words("after", [found])) == apart
    assert sum(kind.total_ns for kind in found.kinds) / 1e9 <= found.seconds_timed


def test_stages_sum_to_the_whole(checkpoint: Path) -> None:
    """By a clock that notes its readings: all from the first step's begin to the end."""
    readings: list[int] = []
    begins: list[int] = []

    def clock() -> int:
        readings.append(len(readings) ** 2)
        return readings[-1]

    timers = Timers(clock)
    with LLM(str(checkpoint), num_kv_blocks=64) as llm:
        core: Any = profile.core_of(llm)
        with profile.timers_on(core, timers), ExitStack() as undo:
            step = core.step

            def noted() -> Any:
                begins.append(len(readings))  # the next reading begins a step
                return step()

            replace(undo, core, "step", noted)
            profile._seconds(llm, TINY.make(random.Random(1)))
            timers.finish()
    whole = [sum(step.ns.values()) for step in timers.steps]
    edges = [readings[begin] for begin in begins] + [readings[-1]]
    assert whole == [b - a for a, b in pairwise(edges)]
    assert len(whole) == 7


def test_timers_are_taken_off_after_an_error(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(str(checkpoint), num_kv_blocks=64) as llm:
        core: Any = profile.core_of(llm)
        before, timers = _attributes(llm), Timers()
        head = core.executor.worker.model.norm

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("the head is off")

        with monkeypatch.context() as patched:
            patched.setattr(head, "forward", broken)
            with pytest.raises(SetupError, match=r"made 0 tokens instead of 11.*error"):
                with profile.timers_on(core, timers):
                    profile._seconds(llm, TINY.make(random.Random(1)))
        assert _attributes(llm) == before
        assert timers.stage == BETWEEN, "every stage was left"
        assert profile._seconds(llm, TINY.make(random.Random(2))) > 0


def _bars() -> list[Bar]:
    ns = {stage: 1_000_000 * (1 + number) for number, stage in enumerate(STAGES)}
    kinds = [Kind(PROMPT, 1, 1024, ns), Kind(DECODE, 10, 10, ns)]
    one = Profile("W1", "one <stream>", kinds, 1.0, 1.02, 1000, 500.0)
    return [Bar(one, kind, Least(4.2, "weights read once")) for kind in kinds]


def test_picture_is_well_formed_and_holds_every_stage() -> None:
    bars = _bars()
    root = ET.fromstring(draw("Where <it> goes", ["how", "when"], bars))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for stage in STAGES:
        drawn = [r for r in root.iter(f"{SVG}rect") if r.get("class") == stage]
        assert len(drawn) == 2, stage
        for bar, rect in zip(bars, drawn, strict=True):
            share = float(rect.get("width", "")) / (WIDTH - 48)
            assert share == pytest.approx(bar.kind.share(stage), abs=1e-4)
        assert profile.words(stage, [bars[0].profile]) in texts
    assert "91.0" not in texts and "W1 with prompt: 91.0 ms a step" in texts
    assert any("roofline 4.20 ms, 5% of the step: weights read once" in str(t) for t in texts)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_texts_do_not_overlap(count: int) -> None:
    bars = (_bars() * 4)[:count]
    lines: dict[str, list[tuple[float, float]]] = {}
    for text in ET.fromstring(draw("Where it goes", ["how", "when"], bars)).iter(f"{SVG}text"):
        at, size = float(text.get("x", "")), float(text.get("font-size", ""))
        wide = len(str(text.text)) * size * 0.56  # em: a character of a wide sans-serif
        left = at - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "")]
        assert left >= 0 and left + wide <= WIDTH, text.text
        lines.setdefault(text.get("y", ""), []).append((left, left + wide))
    for spans in lines.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(spans)))
    ys = sorted(map(float, lines))
    assert all(b - a >= 10 for a, b in pairwise(ys))


def test_roofline_is_what_takes_longer() -> None:
    roofline = Roofline(read_bytes_s=1e9, flops_s=1e11)
    decode = profile.least(Kind(DECODE, 2, 2, {}), roofline, 10**8, 10**8)
    assert (decode.ms, decode.why) == (pytest.approx(100), "weights read once")
    prompt = profile.least(Kind(PROMPT, 1, 1000, {}), roofline, 10**8, 10**8)
    assert (prompt.ms, prompt.why) == (pytest.approx(2000), "FLOPs of the layers")


def test_command_writes_a_picture_and_the_numbers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "WORKLOADS", (TINY,))
    monkeypatch.setattr("minivllm.bench.roofline.measure", lambda threads: Roofline(1e10, 1e11))
    picture, numbers = tmp_path / "p.svg", tmp_path / "p.json"
    args = ["bench", "profile", "--workload", "W1", "--model", str(checkpoint), "--threads", "1"]
    run = CliRunner().invoke(
        app, [*args, "--dtype", "float32", "-o", str(picture), "--json", str(numbers)]
    )
    assert run.exit_code == 0, run.output
    shown = ET.fromstring(picture.read_text())
    record = json.loads(numbers.read_text())
    assert (record["dtype"], record["threads"]) == ("float32", 1)
    title, facts, *_ = (str(text.text) for text in shown.iter(f"{SVG}text"))
    assert title == "Where a step's time goes: tiny, float32"
    assert record["date"][:10] in facts and "1 thread" in facts and record["kernel_path"] in facts
    for kind in record["workloads"][0]["kinds"]:
        assert sum(kind["stages_ms"].values()) == pytest.approx(kind["ms_per_step"], abs=0.01)
        assert set(kind["stages_ms"]) == set(STAGES)
    for words in ("attention, with the store", "between steps", "roofline", "The timers: W1"):
        assert words in run.output
    assert "…" not in run.output


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--workload", "W9"], "--workload: got 'W9'; allowed: names of W1"),
        (["--threads", "0"], "--threads: got 0; allowed: 1 or more"),
        (["--seed", "-1"], "--seed: got -1; allowed: 0 or more"),
        (["--dtype", "int3"], "dtype: got 'int3'; allowed: auto | fast"),
        # Before the run, so it is never told that it runs:
        (["-o", "/no/such/place.svg", "--dtype", "int3"], "--out: got '/no/such/place.svg'"),
        (["--json", "/no/such/place", "--dtype", "int3"], "--json: got '/no/such/place'"),
    ],
)
def test_a_bad_option_is_named(args: list[str], named: str, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "profile.svg")]
    run = CliRunner().invoke(app, ["bench", "profile", *out, *args])
    assert run.exit_code != 0 and named in str(run.exception)


def test_without_torch_it_says_what_to_install(python_without: RunPython) -> None:
    code = "from minivllm.cli.main import main; main(['bench', 'profile'])"
    run = python_without(code)
    assert run.returncode != 0 and "bench profile needs the engine's part" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_engine_elsewhere_is_refused() -> None:
    class Away:
        client = object()

    with pytest.raises(SetupError, match="another process"):
        profile.core_of(Away())  # type: ignore[arg-type]
