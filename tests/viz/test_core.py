"""The page's pure core, by Node's own test runner: see the ``.test.mjs`` files here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("*.test.mjs"))


@pytest.mark.parametrize("file", FILES, ids=[file.name.split(".")[0] for file in FILES])
def test_core_of_the_page(file: Path) -> None:
    node = shutil.which("node")
    assert node is not None, "the page's tests need Node 18 or newer on the PATH"
    done = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
