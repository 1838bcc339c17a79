"""pip as a child: its failures in one sentence, its end when we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minivllm.setup import pip as pip_module
from minivllm.setup.pip import PipError, downloaded_package, explain, run_pip


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left", "disk"),
        (
            "WARNING: Retrying ... NewConnectionError('...: [Errno -3] Temporary failure in name "
            "resolution')\nERROR: No matching distribution found for flask",
            "cannot be reached",
        ),
        ("ERROR: No matching distribution found for torch>=2.6", "no version for this Python"),
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("ERROR: something nobody thought of", "something nobody thought of"),
        ("", "printed nothing"),
    ],
)
def test_a_failure_is_said_in_one_sentence_with_a_remedy(output: str, says: str) -> None:
    what, remedy = explain(output)
    assert says in what
    assert remedy


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("Downloading torch-2.13.0-cp311-manylinux_x86_64.whl (526.6 MB)", "torch (526.6 MB)"),
        ("  Downloading triton-3.7.1-cp311.whl (197.7 MB)", "triton (197.7 MB)"),
        ("Downloading six-1.16.0-py2.py3-none-any.whl (11 kB)", None),
        ("Processing /wheels/torch-2.13.0+cpu-cp311-cp311-linux.whl", "torch"),
        ("Processing /wheels/torch-2.13.0+cpu-cp311-linux.whl (from minivllm==0.1.0)", "torch"),
        ("Collecting torch>=2.6", None),
        ("Installing collected packages: six, torch", "2 packages"),
    ],
)
def test_the_package_at_hand_is_read_from_pips_lines(line: str, package: str | None) -> None:
    assert downloaded_package(line) == package


def test_no_network_is_told_and_not_thrown_as_a_traceback(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/simple"  # the discard port: nobody listens
    with pytest.raises(PipError, match="cannot be reached"):
        run_pip(
            ["download", "--isolated", "--retries", "1", "--timeout", "2", "--no-cache-dir"]
            + ["--index-url", closed, "--dest", str(tmp_path), "no-such-package-here"],
            env={"PIP_CONFIG_FILE": os.devnull},
        )


SLEEPER = """#!/bin/sh
echo started
exec sleep 60
"""


def test_the_child_ends_when_its_caller_is_stopped(tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text(SLEEPER)
    sleeper.chmod(0o755)
    started = threading.Event()
    failed: list[BaseException] = []

    def call() -> None:
        try:
            run_pip(["install"], python=str(sleeper), on_line=lambda line: started.set())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert started.wait(20)
    pip_module.stop_running()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(failed[0], PipError)
    assert not pip_module._running


def test_ctrl_c_ends_the_child_too(tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    sleeper.chmod(0o755)
    # A shell's background jobs start with SIGINT ignored; here it must be heard.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from minivllm.setup.pip import run_pip; run_pip(['x'], python={str(sleeper)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int(pid_file.read_text())
    parent.send_signal(signal.SIGINT)
    parent.wait(20)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
