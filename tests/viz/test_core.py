"""The page's pure core, by Node's own test runner: see ``core.test.mjs``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def test_core_of_the_page() -> None:
    node = shutil.which("node")
    assert node is not None, "the page's tests need Node 18 or newer on the PATH"
    file = Path(__file__).with_name("core.test.mjs")
    done = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
