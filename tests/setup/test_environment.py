"""The stamps: what is installed is not installed again, what changed is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minivllm.errors import SetupError
from minivllm.setup import environment as environment_module
from minivllm.setup.environment import Environment, venv_error


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A checkout with an environment whose pip is a list that takes down what it was asked."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "constraints.txt").write_text("six==1.16.0\n")
    (tmp_path / ".venv").mkdir()
    return Environment(tmp_path)


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setattr(environment_module, "run_pip", lambda args, **_: calls.append(list(args)))
    return calls


def test_a_stage_that_is_done_is_not_installed_again(
    checkout: Environment, pip_calls: list[list[str]]
) -> None:
    assert not checkout.has("base")
    checkout.install("base")
    checkout.install("base")
    assert checkout.has("base") and not checkout.has("engine")
    assert len(pip_calls) == 1
    assert pip_calls[0][-2:] == ["-e", "."]


def test_every_installation_is_pinned_by_the_constraints(
    checkout: Environment, pip_calls: list[list[str]]
) -> None:
    for stage in ("base", "engine", "dev"):
        checkout.install(stage)
    for call in pip_calls:
        assert call[call.index("-c") + 1] == str(checkout.root / "constraints.txt")


def test_a_later_stage_contains_the_earlier_ones(
    checkout: Environment, pip_calls: list[list[str]]
) -> None:
    checkout.install("dev")
    assert checkout.has("base") and checkout.has("engine")
    checkout.install("engine")
    assert len(pip_calls) == 1


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_recipe_is_installed_anew(
    checkout: Environment, pip_calls: list[list[str]], changed: str
) -> None:
    checkout.install("base")
    path = checkout.root / changed
    path.write_text(path.read_text() + "\n# changed\n")
    assert not checkout.has("base")


def test_a_moved_checkout_is_installed_anew(
    checkout: Environment, pip_calls: list[list[str]], tmp_path: Path
) -> None:
    checkout.install("base")
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert not Environment(moved).has("base")


def test_a_failed_installation_leaves_no_stamp(
    checkout: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SetupError("no network", "plug it in")

    monkeypatch.setattr(environment_module, "run_pip", fail)
    with pytest.raises(SetupError):
        checkout.install("base")
    assert not checkout.has("base")


def test_a_stamp_that_is_no_json_counts_as_none(checkout: Environment) -> None:
    (checkout.path / "minivllm-setup.json").write_text("{half a")
    assert not checkout.has("base")


def test_outside_a_clone_the_remedy_is_pip(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pip install 'minivllm\\[engine\\]'"):
        Environment(tmp_path).has("engine")


def test_missing_ensurepip_is_explained() -> None:
    debian = (
        "The virtual environment was not created successfully because ensurepip is not available"
    )
    error = venv_error(debian, free_bytes=2**40)
    assert "ensurepip" in error.what and "python3-venv" in error.remedy


def test_a_full_disk_is_not_taken_for_a_missing_ensurepip() -> None:
    full = "Command '[python, -m, ensurepip, --upgrade]' returned non-zero exit status 1."
    assert "disk is full" in venv_error(full, free_bytes=1_000_000).what
    assert "could not be made" in venv_error(full, free_bytes=2**40).what


def test_a_half_made_environment_is_removed(
    checkout: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SetupError):
        checkout.ensure()
    assert not checkout.path.exists()


def fake_python(directory: Path, version: str) -> None:
    """A `python3` that answers the version check as an old one would: with a failure."""
    script = directory / "python3"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n'
    )
    script.chmod(0o755)


def test_a_python_that_is_too_old_gets_a_sentence(tmp_path: Path) -> None:
    fake_python(tmp_path, "3.8.18")
    script = Path(environment_module.__file__).with_name("find_python.sh")
    run = subprocess.run(
        ["/bin/sh", script, "setup"],
        env={**os.environ, "PYTHON": str(tmp_path / "python3")},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "no Python 3.10 to 3.14 was found" in run.stderr and "Python 3.8.18" in run.stderr
    assert "what to do" in run.stderr and "Traceback" not in run.stderr


def test_a_python_whose_path_has_spaces_is_taken_as_one(tmp_path: Path) -> None:
    directory = tmp_path / "my pythons"
    directory.mkdir()
    script = directory / "python3"
    script.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$# arguments: $3 $4"\n')
    script.chmod(0o755)
    run = subprocess.run(
        ["/bin/sh", Path(environment_module.__file__).with_name("find_python.sh"), "setup", "a b"],
        env={**os.environ, "PYTHON": str(script)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, "4 arguments: setup a b\n")


def test_a_clone_named_minivllm_does_not_hide_the_package(tmp_path: Path) -> None:
    """Where the clone's parent is the working directory, the clone looks like a package."""
    (tmp_path / "minivllm").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", "from minivllm import __version__"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
