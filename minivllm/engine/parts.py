"""What both entries, LLM and AsyncLLM, are made of: a tokenizer and a client of an engine core.

Counterpart in vLLM: the constructors of ``LLMEngine`` and ``AsyncLLM`` in ``vllm/v1/engine/``.
Nothing here imports torch until a model is started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minivllm.config import HOST_KV_CACHE_MEMORY, EngineConfig
from minivllm.engine.client import EngineCoreClient
from minivllm.engine.cores import check_pools, engine_threads, usable_memory
from minivllm.engine.dp_client import DPClient
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.factories import ExecutorFactory, make_executor, make_tokenizer, missing
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.input_processor import InputProcessor, TokenizerLike
from minivllm.engine.output_processor import OutputProcessor
from minivllm.engine.stats import StatLoggerManager
from minivllm.engine.supervisor import SupervisorSettings
from minivllm.errors import ConfigError
from minivllm.executor.base import Executor
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.trace.gate import Gate
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.tracer import OFF, Tracer

if TYPE_CHECKING:
    from minivllm.engine.mp_client import MPClient

__all__ = ["ExecutorFactory", "Parts", "build", "join"]

START_S = 600.0
"""How long the start of an engine's process may take: a large model, from a slow disk."""


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
    stats: StatLoggerManager = field(default_factory=StatLoggerManager)
    """Who hears of each step's statistics."""


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
    executor_factory: ExecutorFactory | str | None = None,
    tokenizer: TokenizerLike | str | None = None,
    gate: Gate | None = None,
    lockstep: bool = False,
) -> Parts:
    """Start an engine on a thread of this process, or (``engine_processes``) ``data_parallel_size``
    of them, each in one of its own.

    Without ``executor_factory`` and ``tokenizer`` it runs ``config.model`` on this machine; for a
    process both can only be given by name (``factories.py``). ``gate``: by which it is steered; a
    process has its own, which begins in the same mode and is then ``client.gate``. ``lockstep``:
    see ``core_loop.py``; for one reader, offline.

    Raises ModelError, ConfigError, TraceError, EngineStartError, and MissingExtraError where torch
    is not installed.
    """
    if config.parallel.engine_processes:
        return _in_a_process(config, executor_factory, tokenizer, gate, lockstep)
    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = make_tokenizer(config, tokenizer)
    executor = make_executor(config, executor_factory)
    log = start_log(config, executor)
    recorder = (
        Recorder(log, token_text=tokenizer.text_after, check=config.trace.check) if log else None
    )
    core = EngineCore(config, executor, recorder or OFF, StructuredOutputManager.of(tokenizer))
    client = InprocClient(core, gate, lockstep)
    parts = join(client, tokenizer, recorder.sibling("api") if recorder else OFF)
    parts.trace_log = log
    return parts


def _in_a_process(
    config: EngineConfig,
    executor: ExecutorFactory | str | None,
    tokenizer: TokenizerLike | str | None,
    gate: Gate | None,
    lockstep: bool,
) -> Parts:
    names = []
    for name, given in (("executor_factory", executor), ("tokenizer", tokenizer)):
        if given is not None and not isinstance(given, str):
            allowed = "package.module:function while engine_processes is on"
            raise ConfigError(name, given, allowed)
        names.append(given)
    executor_name, tokenizer_name = names
    parallel, n = config.parallel, config.parallel.data_parallel_size
    if lockstep and n > 1:
        raise ConfigError("data_parallel_size", n, "1 for offline use: LLM has one reader")
    if config.cache.num_kv_blocks is None and executor is None:
        pool_bytes = config.cache.kv_cache_memory or HOST_KV_CACHE_MEMORY
        check_pools(pool_bytes, n, usable_memory())
    ours = make_tokenizer(config, tokenizer_name)
    try:
        from minivllm.engine.mp_client import MPClient
    except ImportError as error:
        raise missing(error) from error
    log = start_log(config)
    tracer = Recorder(log, "api") if log is not None else OFF
    begin: dict[str, Any] = {}
    if gate is not None:
        begin = {"paused": gate.mode == "pause", "rate": gate.rate}
    num_threads = engine_threads(n)

    def make_client(index: int, epoch: int) -> MPClient:
        return MPClient(
            config,
            index,
            epoch,
            trace_log=log,
            tracer=tracer,
            executor=executor_name,
            tokenizer=tokenizer_name,
            num_threads=num_threads,
            lockstep=lockstep,
            **begin,  # a later life begins so, too; then its gate is set as its fellows' stand
        )

    client: EngineCoreClient
    try:
        if lockstep:  # its reader must be the one who answers, with nobody in between
            client = _wait_for(make_client(0, 1))
        else:
            settings = SupervisorSettings(
                parallel.engine_stall_timeout, parallel.engine_step_timeout, START_S
            )
            policy = parallel.routing_policy
            client = DPClient(make_client, n, policy, tracer, settings, **begin)
        parts = join(client, ours, tracer)
    except BaseException:
        if log is not None:
            log.close()
        raise
    parts.trace_log = log
    return parts


def _wait_for(client: MPClient) -> MPClient:
    try:
        client.wait_ready(START_S)
    except BaseException:
        client.shutdown()
        raise
    return client


def start_log(config: EngineConfig, executor: Executor | None = None) -> TraceLog | None:
    """The log of a run; None if it is not traced. Without an ``executor`` the first engine that
    is ready completes its header. Raises ConfigError, TraceError."""
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
        return None
    from minivllm.scenario import make_header

    return TraceLog(
        make_header(config, executor),
        trace.path,
        steps=trace.retention,
        tensors_limit=trace.tensors_limit,
        header_complete=executor is not None,
    )
