"""What the tests of several rooms share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Tests run two at a time (`make test`). Two torches of two threads each on two cores would wait for
# one another most of the time, here and in whatever process a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

from minivllm.models.source import ModelSource, resolve

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Everything that is not in the base installation: with these blocked, a process is as if the
# extra `engine` had never been installed.
ENGINE_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "numpy",
    "huggingface_hub",
    "triton",
    "xgrammar",
)


@pytest.fixture(scope="session")
def smollm2() -> ModelSource:
    """The real model's file; fetched by `make test` before the tests begin."""
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def transformers_smollm2(smollm2: ModelSource) -> Any:
    """The same file as transformers reads it, in float32: what every output is compared with.

    Reading it takes transformers half a minute, so it happens once in a run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        smollm2.path.parent, gguf_file=smollm2.path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser. Without one the page's tests are skipped, except in CI: they fail."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    message = f"no browser on the PATH (looked for {', '.join(BROWSERS)})"
    if os.environ.get("CI"):
        pytest.fail(message + ": CI must run the page's tests")
    pytest.skip(message)


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def python_without() -> RunPython:
    """Runs Python code in a process of its own in which the given packages cannot be imported."""

    def run(
        code: str,
        *arguments: str,
        blocked: tuple[str, ...] = (*ENGINE_PACKAGES, "zmq"),
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        # None in sys.modules makes `import name` raise ModuleNotFoundError.
        hook = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        return subprocess.run(
            [sys.executable, "-c", hook + code, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )

    return run
