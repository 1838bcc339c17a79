"""What both entries, LLM and AsyncLLM, are made of: a tokenizer and a client of an engine core.

Counterpart in vLLM: the constructors of ``LLMEngine`` and ``AsyncLLM`` in ``vllm/v1/engine/``.
Nothing here imports torch until a model is started.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minivllm.config import EngineConfig
from minivllm.engine.client import EngineCoreClient
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.input_processor import InputProcessor, TokenizerLike
from minivllm.engine.output_processor import OutputProcessor
from minivllm.errors import ConfigError, MissingExtraError
from minivllm.executor.base import Executor
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.trace.gate import Gate
from minivllm.trace.recorder import Recorder, TraceLog
from minivllm.trace.tracer import OFF, Tracer

ExecutorFactory = Callable[[EngineConfig], Executor]


@dataclass(slots=True)
class Parts:
    """A running engine, seen from the front: whoever holds this may send it requests."""

    client: EngineCoreClient
    tokenizer: TokenizerLike
    inputs: InputProcessor
    outputs: OutputProcessor
    tracer: Tracer
    """The front end's own stream of events, ``api``."""
    trace_log: TraceLog | None = None
    """Where all streams of the run are kept; None if the run is not traced."""


def join(client: EngineCoreClient, tokenizer: TokenizerLike, tracer: Tracer = OFF) -> Parts:
    """The front end's rooms around an engine that runs already."""
    facts = client.facts()
    inputs = InputProcessor(
        tokenizer,
        max_model_len=facts["max_model_len"],
        num_kv_blocks=facts["num_kv_blocks"],
        block_size=facts["block_size"],
        tracer=tracer,
    )
    return Parts(client, tokenizer, inputs, OutputProcessor(tokenizer, tracer), tracer)


def build(
    config: EngineConfig,
    *,
    executor_factory: ExecutorFactory | None = None,
    tokenizer: TokenizerLike | None = None,
    gate: Gate | None = None,
    lockstep: bool = False,
) -> Parts:
    """Start an engine in this process, on a thread of its own.

    ``lockstep``: see :class:`~minivllm.engine.inproc_client.InprocClient`; for one reader, offline.
    Without ``executor_factory`` and ``tokenizer`` it runs ``config.model`` on this machine. Raises
    ModelError, ConfigError, TraceError, and MissingExtraError where torch is not installed.
    """
    if tokenizer is None:
        tokenizer = _load_tokenizer(config)
    executor = (executor_factory or _model_executor)(config)
    recorder, log = _start_trace(config, executor, tokenizer)
    grammars = StructuredOutputManager.of(tokenizer)
    core = EngineCore(config, executor, recorder or OFF, grammars)
    client = InprocClient(core, gate, lockstep)
    parts = join(client, tokenizer, recorder.sibling("api") if recorder else OFF)
    parts.trace_log = log
    return parts


def _start_trace(
    config: EngineConfig, executor: Executor, tokenizer: TokenizerLike
) -> tuple[Recorder | None, TraceLog | None]:
    trace = config.trace
    if trace.path is None and not trace.live:
        asked = trace.level if trace.level == "tensors" else None
        given_for = (
            ("level", asked),
            ("retention", trace.retention),
            ("redact", trace.redact),
            ("check", trace.check),
        )
        for field, given in given_for:
            if given:
                raise ConfigError(field, given, "a run that is traced: name a file with --trace")
        return None, None
    from minivllm.scenario import make_header

    log = TraceLog(
        make_header(config, executor),
        trace.path,
        steps=trace.retention,
        tensors_limit=trace.tensors_limit,
    )
    return Recorder(log, token_text=tokenizer.text_after, check=trace.check), log


def _load_tokenizer(config: EngineConfig) -> TokenizerLike:
    try:
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise _missing(error) from error
    from minivllm.models.source import resolve

    return get_tokenizer(resolve(config.model.model))


def _model_executor(config: EngineConfig) -> Executor:
    try:
        from minivllm.executor.uniproc import UniprocExecutor
    except ImportError as error:
        raise _missing(error) from error
    return UniprocExecutor(config)


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"running a model needs the engine's part ({error.name} is not installed): "
        "run `make setup`, or pip install 'minivllm[engine]'"
    )
