"""Code: where a function's text stands, and the frame in which the engine's own code holds it.

Files are named as from this package; of a student's own class by the file's name alone: where it
lies is nobody's business. No counterpart in vLLM.
"""

from __future__ import annotations

import linecache
import os
import reprlib
from types import CodeType, FrameType

import msgspec

MAX_LOCALS = 50
MAX_VALUE = 400
"""Characters of a value's ``repr`` that are kept."""

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class HeldCode(msgspec.Struct, frozen=True, kw_only=True):
    """The line that has asked for the engine to be held, in a form that can travel."""

    file: str
    line: int
    function: str
    first_line: int
    text: str
    """Of the whole function, from its first line on; empty where no file has it."""
    locals: dict[str, str]
    """Name → the value's ``repr`` when it was held, cut."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


class _Short(reprlib.Repr):
    """``repr``, of long containers their beginning only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 3, 12, 12, 12
        self.maxstring = self.maxother = self.maxlong = MAX_VALUE

    def repr_instance(self, x: object, level: int) -> str:
        try:
            return _cut(repr(x))
        except Exception as error:
            return f"<{type(x).__name__}: its repr raises {type(error).__name__}>"


def held_code(frame: FrameType) -> HeldCode:
    """What a reader wants to know of the frame. Of the reader's code no more is run than
    ``__repr__``, and what that raises is told in the value's place."""
    code = frame.f_code
    # super() alone puts __class__ there
    values = [(name, value) for name, value in frame.f_locals.items() if name != "__class__"]
    return HeldCode(
        file=file_of(code),
        line=frame.f_lineno,
        function=name_of(code),
        first_line=code.co_firstlineno,
        text=text_of(code),
        locals={name: _repr(value) for name, value in values[:MAX_LOCALS]},
    )


def _repr(value: object) -> str:
    short = _Short()
    try:
        return _cut(short.repr(value))
    except Exception:  # a class of the reader's that is called list, say
        return short.repr_instance(value, 0)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def file_of(code: CodeType) -> str:
    file = os.path.relpath(code.co_filename, _PACKAGE_ROOT)
    return os.path.basename(code.co_filename) if file.startswith("..") else file


def name_of(code: CodeType) -> str:
    name: str = getattr(code, "co_qualname", code.co_name)  # qualified from Python 3.11 on
    return name


def text_of(code: CodeType) -> str:
    first = code.co_firstlineno
    last = max(n for *_, n in code.co_lines() if n is not None)
    return "".join(linecache.getlines(code.co_filename)[first - 1 : last])
