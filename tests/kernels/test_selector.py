"""Which kernels run, and that nobody pays for Triton who did not ask for it."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from minivllm.attention.selector import select_kernels
from minivllm.config import make_config
from minivllm.errors import ConfigError, MissingExtraError
from tests.conftest import RunPython
from tests.test_imports import offences

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", ["auto", "torch"])
def test_a_cpu_runs_torch(name: str) -> None:
    backend, _ = select_kernels(name, CPU)
    assert backend.name == "torch"


def test_a_gpu_runs_torch_when_asked_or_without_triton() -> None:
    assert select_kernels("torch", GPU)[0].name == "torch"
    with mock.patch("importlib.util.find_spec", return_value=None):
        assert select_kernels("auto", GPU)[0].name == "torch"
        with pytest.raises(MissingExtraError, match=r"not installed: pip install"):
            select_kernels("triton", GPU)


def test_triton_on_a_cpu_is_refused_without_the_interpreter() -> None:
    with pytest.raises(
        ConfigError, match="attention_backend: got 'triton'; allowed: torch"
    ) as told:
        select_kernels("triton", CPU)
    assert "TRITON_INTERPRET=1" in str(told.value)


def test_auto_on_a_gpu_is_triton_with_what_the_gpu_has() -> None:
    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    with mock.patch("torch.cuda.get_device_properties", return_value=gpu):
        backend, operators = select_kernels("auto", GPU)
    assert (backend.name, type(operators).__name__) == ("triton", "TritonOperators")
    assert (backend._arch, backend._num_sms) == (90, 132)  # type: ignore[attr-defined]


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"attention_backend: got 'cuda'; allowed: auto \| torch"):
        make_config(attention_backend="cuda")


def test_an_engine_on_torch_never_loads_triton(python_without: RunPython) -> None:
    code = """
import sys, torch
import minivllm.worker.worker, minivllm.executor.uniproc, minivllm.cli.main
from minivllm.attention.selector import select_kernels
before = "triton" in sys.modules  # whether torch itself did
select_kernels("auto", torch.device("cpu"))
print([name for name in sys.modules if name.startswith("minivllm.attention.kernels")])
print(before == ("triton" in sys.modules))
"""
    run = python_without(code, blocked=())
    assert run.stdout.split() == ["[]", "True"], run.stderr


def test_triton_is_imported_by_its_kernels_alone() -> None:
    found = offences(("minivllm", "viz"), ("triton",))
    assert found and all(place.startswith("minivllm/attention/kernels/") for place in found)
