"""The text of a scenario file as plain data, and the lines that its parts stand on.

``scenario_file.py`` gives the data its meaning. What is no TOML, no JSON, nested past all use or
says a thing twice is refused here, with its line.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from minivllm.errors import ScenarioError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REQUEST = re.compile(r"\s*\[\[\s*request\s*\]\]")
_TABLE = re.compile(r"\s*\[\s*(\w+)\s*\]")
_KEY = re.compile(r"\s*([\w-]+)\s*=")


def read_text(path: Path) -> str:
    """Raises ScenarioError. A byte order mark, which some editors write, is passed over."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        kind = path.suffix.removeprefix(".").upper()
        raise ScenarioError(f"{path} is not {kind}: {error}") from error


def toml_data(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ScenarioError(
            f"{path}: nested too deep; a scenario needs lists of numbers"
        ) from error


def request_lines(text: str, n: int) -> list[int | None]:
    """The line of each ``[[request]]``; None for all where the ``n`` are written another way."""
    lines = [i for i, line in enumerate(text.split("\n"), start=1) if _REQUEST.match(line)]
    return [*lines] if len(lines) == n else [None] * n


def knob_lines(text: str) -> dict[str, int]:
    """Key → its line, of the ``[engine]`` table."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("["):
            named = _TABLE.match(line)
            table = named[1] if named else ""
        elif table == "engine" and (key := _KEY.match(line)):
            found[key[1]] = number
    return found


def json_data(line: str, where: str) -> Any:
    """One line of a JSONL file."""
    try:
        data = msgspec.json.decode(line)
        json.loads(line, object_pairs_hook=_once)  # the other takes the last of two silently
    except _Twice as error:
        raise ScenarioError(f"{where}: {error} stands there twice") from error
    except RecursionError as error:
        raise ScenarioError(
            f"{where}: nested too deep; a scenario needs lists of numbers"
        ) from error
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ScenarioError(
            f"{where}: not JSON ({error}); each line is one request, as in "
            '{"arrives": 1, "prompt_tokens": 40, "output_tokens": 10}'
        ) from error
    return data


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(repr(key))
        found[key] = value
    return found
