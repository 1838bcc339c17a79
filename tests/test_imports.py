"""Nothing is imported upward: which room may know which, read off the code and tried in a process.

The rules are the arrows of the architecture: core ← executor, worker ← engine ← api, viz, cli.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ENGINE_PACKAGES, ROOT, RunPython

WEB = ("flask", "flask_socketio", "werkzeug", "simple_websocket")
FRONTS = (
    "viz",
    "minivllm.api",
    "minivllm.serving",
    "minivllm.cli",
    "minivllm.terminal",
    "minivllm.debug",
    "lessons",
)
TRACE_CONSUMERS = tuple(
    f"minivllm.trace.{name}"
    for name in (
        "fold",
        "file",
        "index",
        "structural",
        "story",
        "recorder",
        "log",
        "gate",
        "schema",
        "diff",
        "artifacts",
        "artifact_store",
    )
)
CORE = (
    "minivllm/core",
    "minivllm/config.py",
    "minivllm/errors.py",
    "minivllm/request.py",
    "minivllm/sampling_params.py",
    "minivllm/structured_output/limits.py",
    "minivllm/structured_output/params.py",
)
ENGINE = (
    "minivllm/engine",
    "minivllm/executor",
    "minivllm/worker",
    "minivllm/models",
    "minivllm/attention",
    "minivllm/sample",
    "minivllm/structured_output",
    "minivllm/trace",
    "minivllm/replay",
    "minivllm/scenario.py",
    "minivllm/tokenizer.py",
    "minivllm/tokenizer_config.py",
    "minivllm/outputs.py",
)


def python_files(place: str) -> list[Path]:
    path = ROOT / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, those inside functions included."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*up, node.module or ""]).strip(".") if node.level else node.module
            assert base is not None
            yield node.lineno, base
            # `from minivllm.trace import fold` names a module, too.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def offences(places: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    found = []
    for place in places:
        for path in python_files(place):
            for line, name in imported_names(path):
                if any(name == bad or name.startswith(bad + ".") for bad in forbidden):
                    found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


RULES = {
    "core knows no model": (CORE, ENGINE_PACKAGES),
    "core knows no server": (CORE, WEB + FRONTS),
    "core knows none of the trace's consumers": (CORE, TRACE_CONSUMERS),
    "core knows of the engine only its messages": (
        CORE,
        tuple(
            f"minivllm.engine.{path.stem}"
            for path in (ROOT / "minivllm" / "engine").glob("*.py")
            if path.stem not in ("__init__", "messages")
        ),
    ),
    "core knows neither executor nor worker": (
        CORE,
        ("minivllm.executor", "minivllm.worker", "minivllm.models"),
    ),
    "the engine knows no server": (ENGINE, WEB + FRONTS),
    "the trace knows no engine": (
        ("minivllm/trace",),
        (
            "minivllm.engine",
            "minivllm.executor",
            "minivllm.worker",
            "minivllm.replay",
            *ENGINE_PACKAGES,
        ),
    ),
    "the worker knows nothing of the core's decisions": (
        ("minivllm/worker", "minivllm/models", "minivllm/attention", "minivllm/sample"),
        ("minivllm.core.scheduler", "minivllm.core.block_pool", "minivllm.core.kv_cache_manager"),
    ),
    "the endpoint knows no dashboard": (
        ("minivllm/api",),
        ("viz", "minivllm.serving", "minivllm.cli"),
    ),
    "the dashboard knows neither the engine nor the endpoint": (
        ("viz",),
        ("minivllm.engine", "minivllm.api", "minivllm.serving", "minivllm.cli", *ENGINE_PACKAGES),
    ),
    "the server knows no command": (("minivllm/serving",), ("minivllm.cli",)),
    "the set-up knows only itself, its errors and where the model is": (
        ("minivllm/setup",),
        ("minivllm.engine", "minivllm.core", "viz", *WEB, *ENGINE_PACKAGES),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_import_contract(rule: str) -> None:
    places, forbidden = RULES[rule]
    assert any(python_files(place) for place in places)
    assert offences(places, forbidden) == []


def test_set_up_imports_the_standard_library_alone() -> None:
    """It runs before anything is installed."""
    foreign = [
        f"{path.name}:{line} {name}"
        for place in ("minivllm/setup", "minivllm/errors.py", "minivllm/models/source.py")
        for path in python_files(place)
        for line, name in imported_names(path)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith(("minivllm.setup", "minivllm.errors", "minivllm.models.source"))
        and not name.startswith("huggingface_hub")  # for hub ids, asked for inside the function
    ]
    assert foreign == []


def test_one_file_imports_xgrammar_and_only_when_it_is_asked() -> None:
    files = [f"minivllm/{path.name}" for path in (ROOT / "minivllm").iterdir()]
    found = offences((*files, "viz"), ("xgrammar",))
    assert found and all("backend_xgrammar.py" in offence for offence in found)


def test_an_engine_without_structured_requests_never_loads_xgrammar(
    python_without: RunPython,
) -> None:
    code = """
import sys
from minivllm import AsyncLLM, LLM, SamplingParams, StructuredOutputsParams
import minivllm.api.server, minivllm.cli.main, minivllm.structured_output.manager
SamplingParams(structured_outputs=StructuredOutputsParams(regex="a"))
print([name for name in sys.modules if name.split(".")[0] in ("xgrammar", "tvm_ffi")])
"""
    run = python_without(code, blocked=())
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


# What runs without the extra `engine`: everything but the rooms that touch tensors.
WITHOUT_ENGINE = (
    "minivllm",
    "minivllm.config",
    "minivllm.request",
    "minivllm.core.scheduler",
    "minivllm.core.kv_cache_manager",
    "minivllm.trace.recorder",
    "minivllm.trace.log",
    "minivllm.trace.fold",
    "minivllm.trace.file",
    "minivllm.trace.index",
    "minivllm.trace.structural",
    "minivllm.trace.story",
    "minivllm.trace.gate",
    "minivllm.trace.diff",
    "minivllm.trace.artifacts",
    "minivllm.trace.artifact_store",
    "minivllm.replay.fork",
    "minivllm.replay.model",
    "minivllm.replay.verify",
    "minivllm.executor.scripted",
    "minivllm.engine.engine_core",
    "minivllm.engine.core_loop",
    "minivllm.engine.inproc_client",
    "minivllm.engine.remote_gate",
    "minivllm.engine.wire",
    "minivllm.engine.llm",
    "minivllm.engine.async_llm",
    "minivllm.scenario",
    "minivllm.models.source",
    "minivllm.setup.bootstrap",
    "minivllm.cli.main",
    "viz.server",
)


@pytest.mark.parametrize("module", WITHOUT_ENGINE)
def test_it_imports_without_the_engine_extra(module: str, python_without: RunPython) -> None:
    run = python_without(f"import {module}")
    assert run.returncode == 0, run.stderr


def test_core_loads_neither_torch_nor_flask(python_without: RunPython) -> None:
    code = """
import minivllm.core.scheduler, minivllm.core.kv_cache_manager
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "flask", "viz", "numpy", "typer", "rich"}))
print(sorted(m for m in sys.modules if m.startswith("minivllm.trace")))
"""
    run = python_without(code, blocked=())
    assert run.returncode == 0, run.stderr
    foreign, trace = run.stdout.splitlines()
    assert foreign == "[]"
    for consumer in TRACE_CONSUMERS:
        assert repr(consumer) not in trace


def test_an_engine_in_a_process_of_its_own_says_which_part_it_needs(
    python_without: RunPython,
) -> None:
    code = """
from minivllm.config import make_config
from minivllm.engine.parts import build
from minivllm.errors import MissingExtraError
names = {"executor_factory": "a:b", "tokenizer": "tests.engine_process.scripted:tokenizer"}
try:
    build(make_config(engine_processes=True), **names)
except MissingExtraError as error:
    print(error)
"""
    run = python_without(code)
    assert run.returncode == 0, run.stderr
    assert "zmq is not installed" in run.stdout and "minivllm[engine]" in run.stdout


def test_a_scenario_runs_without_torch(python_without: RunPython) -> None:
    code = """
from minivllm.scenario import load_scenario, start
run = start(load_scenario("tiny-pressure")).run()
print(run.core.scheduler.current_step)
"""
    run = python_without(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "17"


def test_the_installed_package_has_what_it_reads() -> None:
    """Scenarios, recordings and the page are data files: pyproject must name them."""
    text = (ROOT / "pyproject.toml").read_text()
    for pattern in ("scenarios/*", "gallery/**/*", "static/**/*", "trace/*.json"):
        assert pattern in text
