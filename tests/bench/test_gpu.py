"""``bench gpu`` without a GPU: the rehearsal runs, a wrong kernel is found out, one failure stays
alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from minivllm.attention.torch_backend import TorchAttention
from minivllm.bench.compare import WORKLOADS, Turn
from minivllm.bench.gpu import throughput as speeds
from minivllm.bench.gpu.check import Check, Skipped, run_checks
from minivllm.bench.gpu.kernels import attention_numbers, operator_numbers
from minivllm.bench.gpu.report import as_markdown
from minivllm.cli.bench import app
from minivllm.errors import SetupError
from minivllm.models.operators import TorchOperators
from minivllm.models.source import ModelSource

CPU = torch.device("cpu")


def test_rehearsal_writes_a_report_that_says_it_is_one(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    result = CliRunner().invoke(
        app, ["gpu", "--rehearse", "-o", str(out), "--only", "operators", "--only", "graphs"]
    )
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "report.json").read_text())
    states = {check["name"]: check["state"] for check in kept["checks"]}
    expected = "passed" if torch.cuda.is_available() else "skipped"
    assert states == {"operators against float64": "passed", "graphs against eager": expected}
    if not torch.cuda.is_available():
        assert "A rehearsal without a GPU" in out.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_is_refused_with_what_to_do() -> None:
    result = CliRunner().invoke(app, ["gpu"])
    assert "--rehearse" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "1"], "2 to 512"),
        (["--rehearse", "--only", "nonsense"], "attention against float64"),
        (["--rehearse", "-o", "/nowhere/at/all.md"], "a folder that exists"),
    ],
)
def test_bad_input_names_what_is_allowed(arguments: list[str], words: str) -> None:
    assert words in str(CliRunner().invoke(app, ["gpu", *arguments]).exception)


class SkewedAttention(TorchAttention):
    """Right but for one cell of batches with a chunk in them."""

    def prepare(self, metadata: Any, block_size: int) -> Any:
        step = super().prepare(metadata, block_size)
        forward = step.forward

        def skewed(*arguments: Any) -> torch.Tensor:
            out = forward(*arguments)
            if out.shape[0] > 100:
                out[57, 3, 11] += 0.1
            return out

        step.forward = skewed  # type: ignore[method-assign]
        return step


def test_one_wrong_cell_fails_the_case_it_is_in() -> None:
    check = Check("attention")
    attention_numbers(check, SkewedAttention(), CPU)
    wrong = {row["case"] for row in check.rows if row["error"] > row["limit"]}
    assert check.state == "failed"
    assert wrong == {f"prompts and chunks, heads of {n}" for n in (64, 80, 96, 128, 256)}


def test_a_number_that_is_not_finite_is_a_failure() -> None:
    class Broken(TorchOperators):
        def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
            return super().silu_mul(gate_up) * float("nan")

    check = Check("operators")
    operator_numbers(check, Broken(), CPU)
    assert check.state == "failed" and "silu_mul" in check.words and "rope" not in check.words


def test_a_check_that_raises_fails_alone_and_a_skipped_one_says_why() -> None:
    def breaks(_: Check) -> None:
        raise ZeroDivisionError("of all things")

    def skips(_: Check) -> None:
        raise Skipped("needs a GPU")

    def works(check: Check) -> None:
        check.rows.append({"case": "a|b", "us": 0.0012})

    done = list(run_checks({"one": breaks, "two": skips, "three": works}))
    assert [check.state for check in done] == ["failed", "skipped", "passed"]
    text = as_markdown({"device": "cuda", "gpu": "X"}, done)
    assert "ZeroDivisionError: of all things" in text and "needs a GPU" in text
    assert "| a\\|b | 0.0012 |" in text and "rehearsal" not in text


def test_a_peer_that_cannot_run_is_left_out_and_the_others_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        def __init__(self, peer: str, *_: Any, **__: Any) -> None:
            if peer == "nanovllm":
                raise SetupError("nanovllm ended: no Qwen3", "see its log")
            self.seconds = {"minivllm": 1.0, "vllm": 2.0}[peer]

        def run(self, turn: Turn) -> float:
            return self.seconds

        def stop(self) -> None: ...

    monkeypatch.setattr(speeds, "Engine", Engine)
    monkeypatch.setattr(speeds, "resolve", lambda model: ModelSource("gguf", Path(model), model))
    monkeypatch.setattr(speeds, "as_directory", lambda source: source.path)
    check = Check("throughput")
    speeds.throughput(check, "m", ["vllm", "nanovllm"], trials=1)
    assert "nanovllm is left out: nanovllm ended: no Qwen3" in check.words
    first = check.rows[0]
    assert (first["minivllm"], first["vllm"], first["÷ vllm"]) == (128.0, 64.0, 2.0)
    assert len(check.rows) == len(WORKLOADS)
