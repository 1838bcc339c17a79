"""``bench compare`` with engines of a few lines each: turns, ratios, and what goes wrong."""

from __future__ import annotations

import json
import platform
import random
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minivllm import __version__
from minivllm.bench import compare, roofline
from minivllm.bench.compare import WORKLOADS, Engine, Results, Turn
from minivllm.cli.bench_compare import processor_name
from minivllm.cli.main import app
from minivllm.errors import ConfigError, SetupError

SCRIPT = """
import sys
sys.path.insert(0, {peers!r})
from turns import take_turns

def start(model, threads):
    print("chatter that is no answer")
    def run(prompts, outputs):
        if len(prompts) == 3:
            raise RuntimeError("three are too many")
        return sum(outputs) - (len(prompts) == 2)
    return run

take_turns(start, ["pytest", "no-such-package"])
"""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Peers ``hf`` and ``minivllm`` that only count."""
    for name in ("hf", "minivllm"):
        (tmp_path / f"run_{name}.py").write_text(SCRIPT.format(peers=str(compare.PEERS)))
    monkeypatch.setattr(compare, "PEERS", tmp_path)
    return tmp_path


def test_workloads_are_those_of_the_note() -> None:
    turns = {w.name: w.make(random.Random(1)) for w in WORKLOADS}
    sizes = {n: (sum(map(len, t.prompts)), sum(t.outputs)) for n, t in turns.items()}
    assert sizes["W1"] == (64, 128) and sizes["W4"] == (1024, 1)
    assert sizes["W2"] == (4352, 1280) and len(turns["W2"].prompts) == 16
    assert sizes["W3"] == (16 * 544, 16 * 32)
    assert len({tuple(p[:512]) for p in turns["W3"].prompts}) == 1
    assert len({tuple(p) for p in turns["W3"].prompts}) == 16
    again = WORKLOADS[0].make(random.Random(2))
    assert again.prompts != turns["W1"].prompts, "fresh prompts, or a cache would answer"


def test_engines_take_turns_and_stop(scripted: Path) -> None:
    models = {"minivllm": Path("m"), "hf": Path("m")}
    with compare.engines(["minivllm", "hf"], models, 1, scripted) as running:
        told: list[str] = []
        results = compare.measure(running, WORKLOADS[:1], 2, 1, told.append)
        assert len(told) == 3 * 2
        assert [len(each) for each in results.seconds["W1"].values()] == [2, 2]
        processes = [engine._process for engine in running]
    assert all(process.poll() == 0 for process in processes)


def test_an_engine_that_does_less_or_dies_is_told(scripted: Path) -> None:
    engine = Engine("hf", Path("m"), 1, scripted / "hf.log")
    try:
        with pytest.raises(SetupError, match="made 3 tokens instead of 4"):
            engine.run(Turn([[1], [2]], [2, 2]))
        with pytest.raises(SetupError, match="three are too many"):
            engine.run(Turn([[1], [2], [3]], [1, 1, 1]))
    finally:
        engine.stop()


FAKES = {
    "chatter": ("print('Welcome!')", r"hf answers 'Welcome!\\n' instead of"),
    "bytes": ("sys.stdout.buffer.write(bytes([255, 10]))", "hf answers .* instead of"),
    "a number": ("print(42)", "hf answers '42"),
    "another object": ("print('{}')", "hf answers '{}"),
    "no number": ('print(\'{"ready": "1"}\')', 'hf answers \'{"ready": "1"}'),
    "nothing": ("sys.exit(3)", r"hf ended \(exit code 3\) and said nothing"),
    "last words": ("sys.exit('no such model')", r"hf ended \(exit code 1\): no such model"),
    "a signal": ("os.kill(os.getpid(), 9)", r"hf ended \(signal 9\)"),
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_peer_that_starts_otherwise_is_told(scripted: Path, fake: str) -> None:
    code, words = FAKES[fake]
    (scripted / "run_hf.py").write_text(f"import os, sys\n{code}\n")
    with pytest.raises(SetupError, match=words):
        Engine("hf", Path("m"), 1, scripted / "hf.log")


def test_a_python_that_cannot_run_is_told(scripted: Path) -> None:
    python = scripted / "python"
    python.write_text("not a program")
    with pytest.raises(
        SetupError, match=r"hf cannot be started: .*python: Permission denied\n.*MINIVLLM_PEER_HF"
    ):
        Engine("hf", Path("m"), 1, scripted / "hf.log", python)


def test_an_engine_that_is_gone_keeps_no_other_from_its_end(scripted: Path) -> None:
    """Its pipe is broken: what is written to it, and what was left in it, is an error."""
    models = {"minivllm": Path("m"), "hf": Path("m")}
    running: list[Engine] = []
    with pytest.raises(SetupError, match=r"hf ended \(signal 9\)"):
        with compare.engines(["hf", "minivllm"], models, 1, scripted) as running:
            running[0]._process.kill()
            running[0]._process.wait()
            running[0].run(Turn([[1] * 100_000], [1]))  # more than a pipe holds
    assert [engine._process.poll() for engine in running] == [-9, 0]


def test_ratio_is_the_median_of_the_trials() -> None:
    seconds = {"W1": {"minivllm": [1.0, 2.0, 1.0], "hf": [3.0, 4.0, 30.0]}}
    assert Results(seconds, {}).ratio("W1", "hf") == 3.0


def test_a_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINIVLLM_PEER_VLLM", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="MINIVLLM_PEER_VLLM"):
        Engine("vllm", Path("m"), 1, tmp_path / "log")
    for args in (
        ["--peers", "sglang"],
        ["--workloads", "W9"],
        ["--trials", "0"],
        ["--threads", "0"],
    ):
        result = CliRunner().invoke(app, ["bench", "compare", *args])
        assert result.exit_code != 0


@pytest.mark.parametrize("threads", ["0", "-3"])
def test_threads_are_one_or_more(threads: str) -> None:
    result = CliRunner().invoke(app, ["bench", "compare", "--threads", threads, "--model", "none"])
    assert f"--threads: got {threads}; allowed: 1 or more" in str(result.exception)


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("an earlier run")
    for out, words in ((tmp_path / "no" / "x.json", "No such file"), (tmp_path, "Is a directory")):
        args = ["bench", "compare", "--model", "gpt-900", "-o", str(out)]
        assert words in str(CliRunner().invoke(app, args).exception)
    for out in (kept, tmp_path / "fresh.json"):
        args = ["bench", "compare", "--model", "gpt-900", "-o", str(out)]
        assert "gpt-900" in str(CliRunner().invoke(app, args).exception)
    assert kept.read_text() == "an earlier run"
    assert not (tmp_path / "fresh.json").exists(), "nothing was measured"


def test_everything_is_written_down(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.model.builders import reference_llama, save_hf

    source = save_hf(reference_llama(), tmp_path / "tiny")
    out = tmp_path / "compare.json"
    monkeypatch.setenv("MINIVLLM_PEER_HF", sys.executable)
    monkeypatch.setattr(roofline, "READ_BYTES", 2**16)
    monkeypatch.setattr(roofline, "SIDE", 64)
    args = ["--model", str(source.path), "--workloads", "W1,W4", "--trials", "1", "-o", str(out)]
    args += ["--threads", "1", "--seed", "7"]
    result = CliRunner().invoke(app, ["bench", "compare", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "one stream" in result.output and "roofline" in result.output
    record = json.loads(out.read_text())
    assert set(record["ratios"]["W1"]) == {"hf"} and record["roofline"]["bf16_flops_s"] > 0
    assert (record["seed"], record["trials"], record["threads"]) == (7, 1, 1)
    assert record["engines"]["hf"]["versions"] == {"pytest": version("pytest")}
    assert record["engines"]["hf"]["python"] == platform.python_version()


def test_the_processor_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R): Gold\nflags\t: fpu\n" * 2)
    assert processor_name(cpuinfo) == "Intel(R) Xeon(R): Gold"
    cpuinfo.write_text("CPU part\t: 0xd0c\n")  # ARM tells no name
    for path in (cpuinfo, tmp_path / "none"):
        assert processor_name(path) == (platform.processor() or platform.machine())


def test_minivllm_says_by_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minivllm.engine.llm import LLM
    from tests.model.builders import reference_llama, save_hf, save_tokenizer

    source = save_hf(reference_llama(vocab_size=259), tmp_path / "tiny")
    save_tokenizer(source.path)
    monkeypatch.syspath_prepend(str(compare.PEERS))
    from minivllm.bench.peers.run_minivllm import facts_of

    with LLM(str(source.path), dtype="float32", attention_backend="torch") as llm:
        facts = facts_of(llm)
    assert (facts["version"], facts["dtype"], facts["device"]) == (__version__, "float32", "cpu")
    assert facts["kernel_path"].startswith("torch")
