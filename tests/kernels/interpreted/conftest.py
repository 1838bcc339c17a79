"""These tests run Triton's kernels as Python. Triton decides that when it is imported, so they need
a process of their own: ``tests/kernels/test_interpreted.py`` starts it, and by hand it is

    TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]  # run by test_interpreted.py


@pytest.fixture(autouse=True)
def fresh_tensors_hold_nan() -> Iterator[None]:
    """In torch's deterministic mode ``empty`` fills what it allocates with NaN, so that a cell of
    an output which no kernel wrote is seen."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
