"""Classes of one's own: how ``--scheduler-cls`` and ``--kv-manager-cls`` become a class.

Counterpart in vLLM: ``resolve_obj_by_qualname`` in ``vllm/utils/import_utils.py``. A path comes
from who starts the engine, never from a request: it runs code.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from minivllm.errors import ConfigError


def find_class(field: str, given: str | type, shipped: dict[str, Any], interface: type) -> Any:
    """The class behind a configuration's ``field``: shipped, ``package.module.Class``,
    ``file.py:Class``, or the class itself.

    Raises ConfigError where nothing is found, the file fails, or a method of ``interface`` lacks.
    """
    cls = given if isinstance(given, type) else shipped.get(given) or _load(field, given)
    lacking = [name for name in _methods(interface) if not hasattr(cls, name)]
    if not isinstance(cls, type) or lacking:
        what = f"it lacks {', '.join(lacking)}" if isinstance(cls, type) else "it is no class"
        raise ConfigError(field, name_of(given), f"what {interface.__name__} lists; {what}")
    return cls


def name_of(given: str | type) -> str:
    """How a class is named in a trace, so that a replay can find it again."""
    return f"{given.__module__}.{given.__qualname__}" if isinstance(given, type) else given


def _methods(interface: type) -> list[str]:
    return [name for name, value in vars(interface).items() if name[0] != "_" and callable(value)]


def _load(field: str, path: str) -> Any:
    where, _, name = path.rpartition(":" if ":" in path else ".")
    try:
        module = _module_of_file(Path(where)) if ":" in path else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # whatever the file does when it is run
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(field, path, f"a class that can be imported ({problem})") from error
    if not hasattr(module, name):
        raise ConfigError(field, path, f"a class of {where}, which has no {name!r}")
    return getattr(module, name)


def _module_of_file(path: Path) -> Any:
    """A file is a module of its own, under its own name, so that two do not hide each other."""
    name = f"minivllm_own_{path.resolve().as_posix().replace('/', '_')}"
    if name in sys.modules:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
