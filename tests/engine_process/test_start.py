"""What goes wrong at the start of an engine's process has the same name as in this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from minivllm.config import make_config
from minivllm.engine import process
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.parts import build
from minivllm.errors import (
    ConfigError,
    EngineDeadError,
    EngineStartError,
    EngineUnavailableError,
    ModelError,
    ModelFileError,
)
from tests.engine_process.helpers import KNOBS, NAMES, PATIENCE, Client, request
from tests.engine_process.scripted import HERE


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (
            {"executor": f"{HERE}:broken_file"},
            ModelFileError,
            r"^model.gguf is cut; fetch it again",
        ),
        ({"executor": f"{HERE}:out_of_memory"}, MemoryError, "^no room for 9 GB$"),
        ({"executor": f"{HERE}:nothing"}, ConfigError, "executor: got '.*:nothing'; allowed: pack"),
        (
            {"executor": f"{HERE}:fault"},
            EngineStartError,
            "^in the engine: ZeroDivisionError: a fault of ours; its log says more$",
        ),
        (
            {"executor": f"{HERE}:exits"},
            EngineStartError,
            r"^engine 0 \(process \d+\) ended with exit code 3 before it was ready$",
        ),
    ],
)
def test_the_same_error_comes_back(names: dict[str, str], error: Any, message: str) -> None:
    client = Client(names=names, live=False)
    try:
        with pytest.raises(EngineUnavailableError, match="engine 0 is starting"):
            client.mp.add_request(request("a"))
        with pytest.raises(error, match=message):
            client.mp.wait_ready(PATIENCE)
        with pytest.raises(EngineDeadError):  # and is the end of this client
            while True:
                client.mp.get_output(PATIENCE)
    finally:
        client.mp.shutdown()
    assert not Path(client.mp._directory).exists()


def test_what_the_core_refuses_is_a_config_error_with_its_fields() -> None:
    config = make_config(**{**KNOBS, "enable_chunked_prefill": False, "max_num_batched_tokens": 8})
    with pytest.raises(ConfigError, match="at least max_model_len") as caught:
        build(config, executor_factory=NAMES["executor"], tokenizer=NAMES["tokenizer"])
    assert (caught.value.field, caught.value.given) == ("max_num_batched_tokens", 8)


def test_a_missing_model_is_named_before_a_process_is_started() -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        AsyncLLM(model="no-such-model", engine_processes=True)


def test_what_cannot_cross_over_is_refused() -> None:
    config = make_config(engine_processes=True)
    with pytest.raises(ConfigError, match=r"package\.module:function while engine_processes is on"):
        build(config, executor_factory=lambda config: None)  # type: ignore[arg-type, return-value]


def test_where_no_process_can_be_started_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(EngineStartError, match="no process can be started: No such file"):
        Client(live=False)
    assert not os.listdir(tmp_path)


def test_who_waits_too_short_is_told_and_the_process_is_ended() -> None:
    client = Client(names={"executor": f"{HERE}:sleeps"}, live=False)
    with pytest.raises(EngineStartError, match=r"engine 0 is not ready after 0.01 s"):
        client.mp.wait_ready(0.01)
    client.mp.shutdown()
    assert client.mp.exit_code is not None and client.mp.exit_code != 0


def test_a_directory_whose_path_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ConfigError, match=r"TMPDIR: got .* a path of at most"):
        process.private_directory()
    assert not os.listdir(deep)


def test_a_directory_that_others_may_use_is_refused_by_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_to_all = tmp_path / "d"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    monkeypatch.setattr("minivllm.engine.mp_client.private_directory", lambda: str(open_to_all))
    client = Client(live=False)
    with pytest.raises(ConfigError, match="this user's alone"):
        client.mp.wait_ready(PATIENCE)
    client.mp.shutdown()


def test_an_engine_without_a_model_loads_neither_torch_nor_a_server() -> None:
    """So it starts in a fraction of a second."""
    client = Client(names={"executor": f"{HERE}:lean"}, live=False)
    try:
        client.mp.wait_ready(PATIENCE)  # it would raise what it has found
    finally:
        client.mp.shutdown()
