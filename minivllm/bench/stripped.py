"""The engine without its trace: the same source, with every line that only tells removed.

What "tracing off costs nothing" is compared with. Removed are, in each module of ``minivllm`` that
the engine core runs in a step, the statements ``….emit(…)``, the blocks ``if ….trace.on:`` and the
assignments from ``….trace.text(…)``. Everything else, the arguments that a decision had at hand
included, stays as it is written. The modules are loaded beside the ordinary ones, so that both
builds can take turns in one process.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import minivllm

ROOT = Path(minivllm.__file__).parent


class Strip(ast.NodeTransformer):
    """Takes the telling statements out of a syntax tree, and counts them."""

    def __init__(self) -> None:
        self.removed = 0

    def _gone(self) -> None:
        self.removed += 1

    def visit_Expr(self, node: ast.Expr) -> Any:
        return self._gone() if _calls(node.value, "emit") else node

    def visit_Assign(self, node: ast.Assign) -> Any:
        told = _calls(node.value, "text") and _names_trace(node.value.func.value)  # type: ignore[attr-defined]
        return self._gone() if told else node

    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Attribute) and node.test.attr == "on" and not node.orelse:
            if _names_trace(node.test.value):
                return self._gone()
        self.generic_visit(node)
        if not node.body:
            node.body = [ast.copy_location(ast.Pass(), node)]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, (ast.FunctionDef, ast.For, ast.While, ast.With)) and not node.body:
            node.body = [ast.copy_location(ast.Pass(), node)]
        return node


def _calls(node: ast.expr, method: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
    )


def _names_trace(node: ast.expr) -> bool:
    """``trace`` or ``self.trace``."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name == "trace"


def strip(source: str, filename: str = "<stripped>") -> tuple[ast.Module, int]:
    """The tree without what tells, and how many statements went."""
    stripping = Strip()
    tree = stripping.visit(ast.parse(source, filename))
    return ast.fix_missing_locations(tree), stripping.removed


def telling_modules() -> list[str]:
    """Modules of ``core`` that emit, and the engine core."""
    files = [*sorted((ROOT / "core").glob("*.py")), ROOT / "engine" / "engine_core.py"]
    found = [path for path in files if strip(path.read_text(encoding="utf-8"))[1]]
    return [".".join(("minivllm", *path.relative_to(ROOT).with_suffix("").parts)) for path in found]


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:  # never from a .pyc of the ordinary build
        path = self.get_filename(fullname)
        tree, _ = strip(Path(path).read_text(encoding="utf-8"), path)
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.names:
            return None
        file = str(ROOT.parent / Path(*name.split("."))) + ".py"
        return importlib.util.spec_from_loader(name, _Loader(name, file))


def stripped_engine_core() -> ModuleType:
    """``minivllm.engine.engine_core`` without its trace; the ordinary one stays what it was."""
    names = telling_modules()
    with _set_aside(names):
        finder = _Finder(names)
        sys.meta_path.insert(0, finder)
        try:
            return importlib.import_module("minivllm.engine.engine_core")
        finally:
            sys.meta_path.remove(finder)


@contextmanager
def _set_aside(names: Sequence[str]) -> Iterator[None]:
    """Take the modules out of ``sys.modules`` and put them back afterwards."""
    ordinary = {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]
    try:
        yield
    finally:
        for name, module in ordinary.items():
            sys.modules[name] = module
            package, _, last = name.rpartition(".")
            setattr(sys.modules[package], last, module)
