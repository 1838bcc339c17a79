"""What the demo says when its engine cannot be started: the remedy fits the cause."""

from __future__ import annotations

import errno

import pytest

from minivllm.cli.demo import recordings, told
from minivllm.errors import ConfigError, ModelFileError
from minivllm.trace.gallery import gallery
from viz.server import create_app


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left", "free some space"),
        (OSError(errno.EACCES, "Permission denied", "/m.gguf"), "/m.gguf", "check the file"),
        (ImportError("libtorch.so: cannot open"), "libtorch.so", "delete .venv"),
        (MemoryError(), "MemoryError", "--kv-cache-memory"),
        (
            ModelFileError("m is broken\nwhat to do: fetch it again"),
            "m is broken",
            "fetch it again",
        ),
        (ConfigError("block_size", 0, "1 or more"), "block_size: got 0", "start the demo again"),
        (KeyError("x"), "KeyError: 'x'", "report it"),
    ],
)
def test_the_remedy_fits_the_cause(error: Exception, what: str, remedy: str) -> None:
    said, to_do = told(error)
    assert what in said and "what to do" not in said
    assert remedy in to_do
    assert ("delete .venv" in to_do) == (type(error) is ImportError)


def test_the_page_opens_on_the_tours_run_and_offers_the_whole_gallery() -> None:
    listed = (
        create_app(recordings())
        .test_client()
        .get("/api/runs", environ_base={"REMOTE_ADDR": "127.0.0.1"})
    )
    names = [run["id"] for run in listed.get_json()]
    assert names[0] == "tiny-pressure" and sorted(names) == sorted(gallery())
