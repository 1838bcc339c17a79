"""Factories: what makes an engine's executor and tokenizer, by default or by name.

A name, ``package.module:function``, can cross to an engine's process, which a function cannot. It
comes from whoever starts the engine, never from a request: it runs code. Nothing here imports torch
until a model is started. No counterpart in vLLM, which sends the class itself, pickled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from minivllm.config import EngineConfig
from minivllm.engine.input_processor import TokenizerLike
from minivllm.errors import ConfigError, MissingExtraError
from minivllm.executor.base import Executor

ExecutorFactory = Callable[[EngineConfig], Executor]
"""Makes what runs the model."""


def make_executor(config: EngineConfig, factory: ExecutorFactory | str | None = None) -> Executor:
    """Of ``config.model``, on this machine, unless ``factory`` says otherwise. Raises ModelError,
    ConfigError, MissingExtraError."""
    if factory is not None:
        return _named("executor", factory)(config)
    try:
        from minivllm.executor.uniproc import UniprocExecutor
    except ImportError as error:
        raise missing(error) from error
    return UniprocExecutor(config)


def make_tokenizer(config: EngineConfig, factory: str | None = None) -> TokenizerLike:
    """That of ``config.model``, unless ``factory`` says otherwise. Raises as make_executor does."""
    if factory is not None:
        return _named("tokenizer", factory)(config)
    try:
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise missing(error) from error
    from minivllm.models.source import resolve

    return get_tokenizer(resolve(config.model.model))


def _named(field: str, factory: Any) -> Callable[[EngineConfig], Any]:
    if callable(factory):
        return factory
    module, _, name = factory.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        allowed = f"package.module:function, of what can be imported ({error})"
        raise ConfigError(field, factory, allowed) from error


def missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"running a model needs the engine's part ({error.name} is not installed): "
        "run `make setup`, or pip install 'minivllm[engine]'"
    )
