"""Every command explains itself, quickly and without torch; the engine's flags are one table."""

from __future__ import annotations

from dataclasses import fields

import pytest

from minivllm.cli.flags import FLAGS, parse_size, show_size
from minivllm.cli.main import app
from minivllm.cli.options import defaults
from minivllm.config import CacheConfig, ModelConfig, SchedulerConfig
from minivllm.errors import ConfigError
from tests.conftest import RunPython

CLI = "import sys; from minivllm.cli.main import main; main(sys.argv[1:])"
COMMANDS = [
    "demo",
    "view",
    "serve",
    "chat",
    "generate",
    "step",
    "replay",
    "fork",
    "compare",
    "gallery",
    "trace",
    "bench",
    "admin",
]
RUN_AN_ENGINE = ["demo", "serve", "chat", "generate", "trace record"]


def test_the_commands_are_these() -> None:
    names = [info.name for info in app.registered_commands]
    names += [info.name for info in app.registered_groups]
    assert sorted(str(name) for name in names) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        "",
        *COMMANDS,
        *(f"trace {s}" for s in ["record", "stats", "cat", "diff", "worksheet", "schema"]),
        *(f"bench {s}" for s in ["kv-waste", "scheduler", "trace", "kernels", "gpu", "compare"]),
        "bench profile",
        *(f"admin {s}" for s in ["list", "drain", "resume", "restart"]),
    ],
)
def test_help_works_without_torch(command: str, python_without: RunPython) -> None:
    run = python_without(CLI, *command.split(), "--help")
    assert run.returncode == 0, run.stderr
    assert "Usage: minivllm" in run.stdout
    assert "\\b" not in run.stdout, "a mark for the layout, not for the reader"


def test_the_request_that_serve_shows_is_one_the_endpoint_takes(python_without: RunPython) -> None:
    text = python_without(CLI, "serve", "--help").stdout
    assert "curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\\n" in text


def test_help_loads_neither_an_engine_nor_a_server(python_without: RunPython) -> None:
    code = """
import sys
from minivllm.cli import main
heavy = {"torch", "transformers", "numpy", "flask", "flask_socketio", "viz", "prompt_toolkit"}
print(sorted(heavy & set(sys.modules)))
"""
    assert python_without(code, blocked=()).stdout.strip() == "[]"


@pytest.mark.parametrize("command", RUN_AN_ENGINE)
def test_every_command_that_runs_an_engine_has_all_its_flags(
    command: str, python_without: RunPython
) -> None:
    text = python_without(CLI, *command.split(), "--help").stdout
    for flag in FLAGS:
        for name in flag.names.split("/"):
            assert name in text


def test_every_field_of_the_engine_can_be_set_by_a_flag() -> None:
    sections = (ModelConfig, CacheConfig, SchedulerConfig)
    all_fields = {field.name for section in sections for field in fields(section)}
    assert all_fields - {flag.field for flag in FLAGS} == {"served_model_name"}  # a flag of `serve`


def test_the_help_shows_the_defaults_of_the_configuration(python_without: RunPython) -> None:
    text = " ".join(python_without(CLI, "generate", "--help").stdout.split())
    assert f"[default: {defaults()['max_num_batched_tokens']}]" in text
    assert "[default: 256MiB]" in text and "[default: on]" in text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("4096", 4096),
        ("64kib", 65536),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "12QB", "-1GB", "1e9"])
def test_a_bad_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="512MiB"):
        parse_size(text)


def test_a_size_is_shown_in_the_largest_unit_that_is_even() -> None:
    assert [show_size(n) for n in (2**30, 512 * 2**20, 3 * 2**10, 1000)] == [
        "1GiB",
        "512MiB",
        "3KiB",
        "1000",
    ]
