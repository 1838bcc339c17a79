"""What no file of the package may do: each rule is the lesson of somebody's advisory.

Read off the syntax trees, so that a comment or a help text is no offence.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT

FILES = sorted([*(ROOT / "minivllm").rglob("*.py"), *(ROOT / "viz").rglob("*.py")])
SERVING = ("minivllm/api/", "minivllm/serving/", "viz/")
TOLD = (ast.Import, ast.ImportFrom, ast.Call, ast.keyword, ast.Attribute, ast.Assert)
TOLD += (ast.Constant, ast.Compare)


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    return [
        (str(path.relative_to(ROOT)), node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, TOLD)
    ]


def found(offends: Callable[[ast.AST], bool], *, below: tuple[str, ...] = ("",)) -> list[str]:
    return [
        f"{path}:{getattr(node, 'lineno', 0)}"
        for path, node in nodes()
        if path.startswith(below) and offends(node)
    ]


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""


def calls(node: ast.AST, *names: str) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
        return False
    last = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
    return any(name.endswith(last) for name in names) and ast.unparse(node.func) in names


def keyword(name: str, value: str) -> Callable[[ast.AST], bool]:
    return lambda node: (
        isinstance(node, ast.keyword) and node.arg == name and ast.unparse(node.value) == value
    )


OBJECTS = ("pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "multiprocessing")


def test_no_object_is_read_from_bytes() -> None:
    # CVE-2025-32444, -30165, -47277, CVE-2025-61765, CVE-2026-3059: pickle from a socket
    assert not found(lambda node: any(name.split(".")[0] in OBJECTS for name in imports(node)))
    loads = ("torch.load", "np.load", "numpy.load", "yaml.load", "recv_pyobj")
    assert not found(lambda node: calls(node, *loads))
    assert not found(
        lambda node: isinstance(node, ast.Attribute) and node.attr in ("recv_pyobj", "send_pyobj")
    )


def test_no_text_is_run() -> None:
    # CVE-2025-9141: eval in a tool parser
    offences = found(lambda node: calls(node, "eval", "exec", "compile", "__import__"))
    # The one that compiles builds the untraced engine of `bench trace` from our own source.
    assert [o.split(":")[0] for o in offences] in ([], ["minivllm/bench/stripped.py"])
    assert not found(keyword("shell", "True"))
    assert not found(lambda node: calls(node, "os.system", "os.popen"))


def test_no_code_comes_with_a_model() -> None:
    assert not found(keyword("trust_remote_code", "True"))
    # CVE-2024-34359: a chat template outside the sandbox
    assert not found(
        lambda node: (
            isinstance(node, ast.ImportFrom)
            and node.module == "jinja2"
            and any(alias.name in ("Environment", "Template") for alias in node.names)
        )
    )
    assert not found(lambda node: calls(node, "jinja2.Environment", "jinja2.Template"))


def test_an_assert_guards_nothing() -> None:
    # CVE-2026-41523: with python -O it is not there. Here it may tell a type checker of a type.
    def guards(node: ast.AST) -> bool:
        if not isinstance(node, ast.Assert):
            return False
        test = node.test
        narrows = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
        return not narrows and not calls(test, "isinstance")

    assert not found(guards)


def test_nothing_listens_everywhere_unless_asked() -> None:
    # CVE-2025-30202, CVE-2026-3059: sockets on tcp://*
    def wildcard(node: ast.AST) -> bool:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return False
        return node.value in ("0.0.0.0", "::", "*:0") or node.value.startswith("tcp://*")

    # --class asks: thirty laptops are to reach it, with a join code.
    places = [place for place in found(wildcard) if not place.startswith("minivllm/cli/serving.py")]
    assert not places and len(found(wildcard)) == 1


def test_no_origin_is_let_in() -> None:
    # CVE-2019-13611: a foreign page on the channel
    assert not found(
        lambda node: isinstance(node, ast.keyword) and node.arg == "cors_allowed_origins"
    )
    assert not found(
        lambda node: (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.lower().startswith("access-control-allow")
        )
    )
    assert not found(lambda node: any(name.startswith("flask_cors") for name in imports(node)))


def test_no_secret_is_compared_in_the_time_it_takes() -> None:
    # CVE-2025-59425: a key compared with ==
    words = ("api_key", "join_code", "driver_code", "password")

    def compares(node: ast.AST) -> bool:
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], (ast.Eq, ast.In)):
            return False
        sides = [node.left, *node.comparators]
        return any(ast.unparse(side).rsplit(".")[-1] in words for side in sides)

    assert not found(compares, below=SERVING)


@pytest.mark.parametrize("room", SERVING)
def test_the_rules_look_at_the_rooms_that_serve(room: str) -> None:
    assert any(str(path.relative_to(ROOT)).startswith(room) for path in FILES)
