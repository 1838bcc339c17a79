"""Can a place that was asked for come at all? Asked before the engine is let go: what a live run
has gone through in search of a mistyped line or request cannot be had back.

Of a recording all lines and requests are known. Of a run that goes on, a line can still come if it
is one that emits (its file is read), and a request if there are, or may be, more to come.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

import minivllm
from minivllm.terminal.reply import VerbError
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean
from minivllm.trace.until import Until, lines_named, requests_named, steps_named

PLACES = (
    ("preempt", "evict", "hit", "skip", "skip:no_free_blocks", "finish", "finish r3", "r3"),
    ("line scheduler.py:217", "step 30", "sched.chunk", "kv", "no_budget"),
)
"""What can be asked for, an example of each: ``help until``, and what is said to other words."""
MOST = 24
"""Lines or requests that an error lists."""
_EMITTERS = ("core/*.py", "engine/engine_core.py", "engine/core_loop.py", "engine/grammars.py")
"""The code whose events an engine's stream has."""


def check(session: Session, goal: Until, verb: str) -> None:
    """Raises VerbError, with what there is, for a line or a request that will not come."""
    given = f"{verb} {clean(goal.words)}"
    for step in steps_named(goal.words) if verb == "until" else ():
        if step <= session.begun:
            raise VerbError(f"{given}: step {step} has begun; goto {step} looks at it")
    for file, line in lines_named(goal.words):
        lines = _lines_of(session, file)
        if not lines:
            there = ", ".join(_files(session)) or "the trace does not tell"
            raise VerbError(f"{given}: no event comes from such a file; they come from: {there}")
        if line not in lines:
            there = _listed(sorted(lines))
            raise VerbError(f"{given}: this line tells of nothing; of its file these do: {there}")
    known = session.history.state().requests
    for req in requests_named(goal.words):
        if req not in known and not _can_come(session, req):
            here = "in this recording" if session.steered is None else "here, and none is to come"
            there = f"there are: {_listed(known) or 'none'}"
            if coming := _to_come(session, known, req):
                there += f"; to come: {_listed(coming)}"
            raise VerbError(f"{given}: no {req} is {here}; {there}")


def not_yet_known(session: Session, goal: Until) -> str:
    """Who was asked for and has not come, where others may still send it; for who has waited."""
    known = session.history.state().requests
    missing = [req for req in requests_named(goal.words) if req not in known]
    return f"no {' and no '.join(missing)} has come" if missing else ""


def _to_come(session: Session, known: Collection[str], than: str) -> list[str]:
    """Who is not there yet and can come, before one that cannot."""
    names = (f"r{number}" for number in range(1, int(than[1:])))
    return [req for req in takewhile(partial(_can_come, session), names) if req not in known]


def _can_come(session: Session, req: str) -> bool:
    return session.steered is not None and session.steered.source.can_come(int(req[1:]))


def _lines_of(session: Session, file: str) -> set[int]:
    """Of a file, named by its end, the lines that emit events."""
    places = session.history.places.values()
    lines = {line for told, line in places if _is(told, file)}
    if session.steered is not None:
        for path in _files_here(file):
            lines |= emitting_lines(path)
    return lines


def _files_here(file: str) -> Iterable[Path]:
    """The engine's own, and what was loaded beside it: a scheduler of the reader's, say."""
    loaded = [
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in sys.stdlib_module_names
    ]
    own = [path for path in _own_files() if _is(str(path), file)]
    return {*own, *(Path(path) for path in loaded if path and _is(path, file))}


@cache
def _own_files() -> tuple[Path, ...]:
    root = Path(minivllm.__file__).parent
    return tuple(path for pattern in _EMITTERS for path in sorted(root.glob(pattern)))


@cache
def emitting_lines(path: Path) -> set[int]:
    """Those with a call of ``….emit(``, as the recorder numbers them."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return set()
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {f.end_lineno or 0 for f in calls if isinstance(f, ast.Attribute) and f.attr == "emit"}


def _files(session: Session) -> list[str]:
    names = {told.rpartition("/")[2] for told, _ in session.history.places.values()}
    if session.steered is not None:
        names |= {path.name for path in _own_files() if emitting_lines(path)}
    return sorted(names)


def _is(path: str, file: str) -> bool:
    return f"/{path}".endswith(f"/{file}")


def _listed(names: Iterable[object]) -> str:
    each = list(map(str, names))
    more = [f"… ({len(each)} in all)"] if len(each) > MOST else []
    return ", ".join(each[:MOST] + more)
