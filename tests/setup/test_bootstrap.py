"""Stages 2 and 3 behind the page: their states, and what is said when one fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from minivllm.errors import ModelFileError, SetupError
from minivllm.models import source as source_module
from minivllm.models.source import ModelSource
from minivllm.setup import bootstrap
from minivllm.setup.bootstrap import prepare_engine
from minivllm.setup.environment import Environment
from minivllm.setup.pip import PipError
from minivllm.setup.progress import EngineStatus, StatusBoard


class Fake(Environment):
    """An environment whose packages are installed by a word."""

    def __init__(self, ours: bool = True, error: SetupError | None = None) -> None:
        super().__init__(Path("/nowhere"))
        self.ours, self.error, self.installed = ours, error, False

    def is_ours(self) -> bool:
        return self.ours

    def has(self, stage: str) -> bool:
        return self.installed

    def install(self, stage: str, on_package: Callable[[str], None] = lambda what: None) -> None:
        on_package("torch (192 MB)")
        if self.error:
            raise self.error
        self.installed = True


@pytest.fixture
def states() -> tuple[StatusBoard, list[str]]:
    seen: list[str] = []
    board = StatusBoard(EngineStatus.installing())
    board.subscribe(lambda status: seen.append(status.text))
    return board, seen


def fetch(model: str, progress: Callable[[int, int], None]) -> ModelSource:
    progress(41_000_000, 93_000_000)
    progress(93_000_000, 93_000_000)
    return ModelSource("gguf", Path("/model.gguf"), model)


def test_the_states_follow_one_another(
    states: tuple[StatusBoard, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "resolve", fetch)
    board, seen = states
    prepare_engine(board, Fake())
    assert seen == [
        "installing",
        "installing torch (192 MB)",
        "model 41 of 93 MB",
        "model 93 of 93 MB",
    ]


def test_what_is_installed_is_not_told_again(
    states: tuple[StatusBoard, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "resolve", lambda model, progress: None)
    board, seen = states
    environment = Fake()
    environment.installed = True
    prepare_engine(board, environment)
    assert seen == ["installing"]  # the board's first state; nothing was added


def test_a_failed_installation_is_told_with_its_remedy(
    states: tuple[StatusBoard, list[str]],
) -> None:
    board, _ = states
    error = PipError("the package index cannot be reached", "check the network", "")
    with pytest.raises(PipError):
        prepare_engine(board, Fake(error=error))
    assert board.get() == EngineStatus(
        "failed", "failed: the package index cannot be reached", "check the network"
    )


def test_a_wrong_checksum_is_told_with_its_remedy(
    states: tuple[StatusBoard, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(model: str, progress: object) -> ModelSource:
        raise ModelFileError("the file has the wrong checksum\nwhat to do: run it again")

    monkeypatch.setattr(source_module, "resolve", altered)
    board, _ = states
    with pytest.raises(ModelFileError):
        prepare_engine(board, Fake())
    assert board.get().text == "failed: the file has the wrong checksum"
    assert board.get().remedy == "run it again"


def test_somebody_elses_environment_is_not_changed(
    states: tuple[StatusBoard, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    board, _ = states
    environment = Fake(ours=False)
    with pytest.raises(SetupError, match="not installed in"):
        prepare_engine(board, environment)
    assert not environment.installed
    assert "make demo" in str(board.get().remedy)


def test_a_failure_ends_the_command_with_a_sentence_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(self: Environment, stage: str, on_package: object = None) -> None:
        raise PipError("the package index cannot be reached", "check the network", "ERROR: no way")

    monkeypatch.setattr(Environment, "ensure", lambda self: None)
    monkeypatch.setattr(Environment, "has", lambda self, stage: False)
    monkeypatch.setattr(Environment, "install", no_network)
    monkeypatch.setattr(bootstrap.signal, "signal", lambda *_: None)
    assert bootstrap.main(["setup"]) == 1
    said = capsys.readouterr().err
    assert "set-up failed: the package index cannot be reached" in said
    assert "what to do: check the network" in said
    assert "Traceback" not in said


def test_ctrl_c_during_set_up_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Environment) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Environment, "ensure", interrupted)
    monkeypatch.setattr(bootstrap.signal, "signal", lambda *_: None)
    assert bootstrap.main(["setup"]) == 130
    assert "run it again to go on" in capsys.readouterr().err


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["install"]) == 2
    assert "setup" in capsys.readouterr().err
