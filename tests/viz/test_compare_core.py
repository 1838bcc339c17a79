"""Timeline and Compare, the pure part, by Node's own test runner: see ``compare.test.mjs``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def test_core_of_timeline_and_compare() -> None:
    node = shutil.which("node")
    assert node is not None, "the page's tests need Node 18 or newer on the PATH"
    file = Path(__file__).with_name("compare.test.mjs")
    done = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
