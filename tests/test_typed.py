"""Struct types are understood before threads use them: two that do so at once end the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

CHECK = """
import gc
from minivllm.config import make_config
from minivllm.typed import struct_types

{start}

def is_warm(cls):  # what msgspec has found out about a type hangs on it
    return any(type(part).__name__ == "StructInfo" for part in gc.get_referents(cls))

types = list(struct_types())
assert len(types) > 50 and any(cls.__name__ == {knows!r} for cls in types)
print([cls.__name__ for cls in types if not is_warm(cls)])
"""

FRONT = """
from minivllm.serving.front import Codes, FrontEnd
from minivllm.serving.settings import ServeSettings
from tests.serving.scripted_server import start_scripted
front = FrontEnd(make_config(live=True), ServeSettings(), Codes("a", "b"), start_scripted)
front.end()
"""

ENGINE = """
import io
from minivllm.engine import core_proc
from minivllm.engine.wire import CoreSettings
core_proc._read_settings = lambda: CoreSettings(config={}, directory="", index=0, epoch=1)
class Ends:
    def __init__(self, settings): pass
    def run(self): raise KeyboardInterrupt
core_proc.CoreProcess = Ends
try: core_proc.main()
except KeyboardInterrupt: pass
"""

VIEWER = """
from viz.server import create_app
create_app()
"""


@pytest.mark.parametrize(
    ("start", "knows"),
    [(FRONT, "CompletionRequest"), (ENGINE, "EngineCoreRequest"), (VIEWER, "State")],
    ids=["front end", "engine process", "viewer"],
)
def test_before_there_are_threads_every_struct_type_is_understood(start: str, knows: str) -> None:
    script = CHECK.format(start=start, knows=knows)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
