"""Errors that cross the process boundary: told as a name, a message and a few fields.

Only named errors of ``errors.py`` and some of Python's own become the same error again. Any other
is one of this project's faults, and its message may say what is nobody's business: it stays in the
log.
"""

from __future__ import annotations

import builtins
from typing import Any

from minivllm import errors
from minivllm.engine.wire import ErrorTold
from minivllm.errors import MiniVLLMError

_PYTHONS = (
    "MemoryError",
    "OSError",
    "FileNotFoundError",
    "PermissionError",
    "ImportError",
    "TypeError",
    "ValueError",
)


def told(error: BaseException) -> ErrorTold:
    """``error`` as it travels."""
    fields = {
        name: value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
        for name, value in vars(error).items()
        if not name.startswith("_")
    }
    return ErrorTold(name=_class_of(error).__name__, message=str(error), fields=fields)


def made_anew(told: ErrorTold, otherwise: type[MiniVLLMError]) -> Exception:
    """The same error on this side; an ``otherwise`` where it is none of the known."""
    cls = getattr(errors, told.name, None)
    if not (isinstance(cls, type) and issubclass(cls, MiniVLLMError)):
        if told.name not in _PYTHONS:
            return otherwise(f"in the engine: {told.name}: {told.message}; its log says more")
        cls = getattr(builtins, told.name)
    # Not through __init__: what it would make of the fields is in the message already.
    error: Any = cls.__new__(cls, told.message)
    error.args = (told.message,)
    for name, value in told.fields.items():
        if name.isidentifier() and not name.startswith("_"):
            setattr(error, name, value)
    return error


def _class_of(error: BaseException) -> type[BaseException]:
    """The nearest class that the other side knows."""
    for cls in type(error).__mro__:
        if getattr(errors, cls.__name__, None) is cls or cls.__name__ in _PYTHONS:
            return cls
    return type(error)
