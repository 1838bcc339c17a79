"""What the pool view and the drawers are made of: JavaScript and Python say the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.viz.make_views import FILE, all_views


def test_views_on_file_are_what_python_makes_of_the_vectors() -> None:
    """Otherwise: ``python -m tests.viz.make_views``."""
    assert json.loads(FILE.read_text()) == all_views()


def test_core_of_the_views() -> None:
    node = shutil.which("node")
    assert node is not None, "the page's tests need Node 18 or newer on the PATH"
    file = Path(__file__).with_name("views.test.mjs")
    done = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
