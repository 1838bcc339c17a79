"""Configuration: frozen dataclasses, one for each part of the engine, joined in EngineConfig.

Counterpart in vLLM: ``vllm/config/`` (a package of 20 files). Left out: everything this project
does not build (LoRA, multimodal, KV transfer, compilation passes). A bad value raises
:class:`~minivllm.errors.ConfigError`, which says which field, what was given, what is allowed.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, replace
from typing import Any

from minivllm.errors import ConfigError

DTYPES = ("auto", "fast", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "none", "q4")
ATTENTION_BACKENDS = ("auto", "torch", "native", "triton")
POLICIES = ("fcfs", "priority")
ADMISSIONS = ("full", "strict")
BATCHINGS = ("continuous", "static")
KV_MANAGERS = ("paged", "contiguous")
RESERVES = ("max_model_len", "request")
ROUTING_POLICIES = ("round_robin", "least_loaded", "prefix_aware")
HOST_KV_CACHE_MEMORY = 512 * 2**20
"""Bytes of the pool on a CPU, unless told otherwise; a GPU is measured."""
TRACE_LEVELS = ("structure", "sampling", "tensors")
MAX_KV_BLOCKS = 2**22
"""Of 16 tokens each: 67 million tokens, and half a gigabyte for the bookkeeping alone."""
STEP_KNOBS = (
    "max_num_batched_tokens",
    "max_num_seqs",
    "policy",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "watermark",
    "admission",
    "speculative_ngram",
    "prompt_lookup_min",
    "prompt_lookup_max",
)
"""What may change between two steps. All else is what pool, model and classes were made with."""


def _check_int(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Refuse anything that is not an integer within [minimum, maximum]; ``True`` is no integer."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not ok or (maximum is not None and value > maximum):  # type: ignore[operator]
        limit = f"{minimum} to {maximum}" if maximum is not None else f"{minimum} or more"
        raise ConfigError(name, value, f"a whole number, {limit}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(name, value, "True | False")


def _check_text(name: str, value: object, allowed: str) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(name, value, allowed)


def _check_class(name: str, value: object, choices: tuple[str, ...]) -> None:
    """A short name, a path that looks like one, or the class itself."""
    path = isinstance(value, str) and (value in choices or "." in value)
    if not path and not isinstance(value, type):
        allowed = "package.module.Class | file.py:Class | the class itself"
        raise ConfigError(name, value, " | ".join([*choices, allowed]))


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(name, value, " | ".join(choices))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how its numbers are held."""

    model: str = "smollm2-135m"
    """Alias, directory with safetensors, ``.gguf`` file, or hub id."""
    dtype: str = "auto"
    """``float32`` (exact: a token does not depend on who shares its batch) | ``bfloat16`` |
    ``float16`` | ``auto`` (bfloat16 on a GPU, float32 on a CPU) | ``fast`` (as ``auto``, but
    bfloat16 on a CPU, too, if that is faster in it: measured at the start, or known of codes)."""
    quantization: str = "auto"
    """``auto``: where the checkpoint's matrices are codes of 4 or 8 bits (GGUF's Q4_0, Q4_1, Q8_0)
    and the dtype is bfloat16, a CPU computes with these: in compiled C where it multiplies bytes
    (AVX-512 VNNI), else by torch while a batch has few tokens. ``none``: never. ``q4``: refuse to
    start without 4-bit ones."""
    attention_backend: str = "auto"
    """``torch`` | ``native`` | ``triton`` | ``auto`` (triton on a GPU; on a CPU native for bfloat16
    where there is a C compiler, else torch): whose kernels compute attention and the operations
    between the matrix products."""
    enforce_eager: bool = False
    """On a GPU: launch every kernel of a decode step from Python instead of replaying a recorded
    CUDA graph."""
    max_model_len: int | None = None
    """Tokens of prompt + output that one request may hold. None: what the model was trained for."""
    seed: int = 0
    """Seed of the run; a request without a seed of its own draws from (this, its ordinal)."""
    served_model_name: str | None = None
    """The name the endpoint answers to. None: the same as ``model``."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError("model", self.model, "an alias, a path or a hub id")
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("quantization", self.quantization, QUANTIZATIONS)
        _check_choice("attention_backend", self.attention_backend, ATTENTION_BACKENDS)
        _check_bool("enforce_eager", self.enforce_eager)
        if self.max_model_len is not None:
            _check_int("max_model_len", self.max_model_len, 2)
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_text("served_model_name", self.served_model_name, "a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The paged KV cache."""

    block_size: int = 16
    """Tokens per KV block."""
    num_kv_blocks: int | None = None
    """Blocks in the pool, the null block included (so one less is usable). None: from memory."""
    kv_cache_memory: int | None = None
    """Bytes for the pool when ``num_kv_blocks`` is None. None: on a GPU what
    ``gpu_memory_utilization`` leaves, on a CPU 512 MiB."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory (above 0, up to 1) for weights, the largest step and the pool."""
    enable_prefix_caching: bool = True
    """Share the blocks of equal prefixes between requests."""
    kv_manager_cls: str | type = "paged"
    """``paged`` | ``contiguous``, or a class of one's own (``core/interfaces.py``): the class, or
    its path ``package.module.Class`` or ``file.py:Class``."""
    contiguous_reserve: str = "max_model_len"
    """What ``contiguous`` sets aside for a request: ``max_model_len``, or ``request``, which is
    prompt + max_tokens."""

    def __post_init__(self) -> None:
        _check_int("block_size", self.block_size, 1, 1024)
        if self.num_kv_blocks is not None:
            _check_int("num_kv_blocks", self.num_kv_blocks, 2, MAX_KV_BLOCKS)
        if self.kv_cache_memory is not None:
            _check_int("kv_cache_memory", self.kv_cache_memory, 1)
        share = self.gpu_memory_utilization
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise ConfigError("gpu_memory_utilization", share, "a number above 0, up to 1")
        _check_bool("enable_prefix_caching", self.enable_prefix_caching)
        _check_class("kv_manager_cls", self.kv_manager_cls, KV_MANAGERS)
        _check_choice("contiguous_reserve", self.contiguous_reserve, RESERVES)
        if self.kv_manager_cls == "paged" and self.contiguous_reserve != "max_model_len":
            raise ConfigError(
                "contiguous_reserve",
                self.contiguous_reserve,
                "only with a kv_manager_cls that sets aside (contiguous); paged takes blocks when "
                "they are needed",
            )
        if self.kv_manager_cls == "contiguous" and self.enable_prefix_caching:
            raise ConfigError(
                "kv_manager_cls",
                "contiguous",
                "contiguous only with enable_prefix_caching off: a block cannot be the neighbour "
                "of two requests' blocks",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What one step may do, and in which order requests are served."""

    max_num_batched_tokens: int = 2048
    """Token budget of one step."""
    max_num_seqs: int = 64
    """Requests that may run at once."""
    policy: str = "fcfs"
    """``fcfs`` | ``priority`` (smaller number first, then order of arrival)."""
    enable_chunked_prefill: bool = True
    """May a prompt be run in pieces over several steps?"""
    long_prefill_token_threshold: int = 0
    """Most tokens of one prompt in one step while there are other requests; 0 = no limit but the
    budget."""
    watermark: float = 0.0
    """Share of the pool (0 to below 1) that an admission leaves free while others run."""
    admission: str = "full"
    """``full``: the whole sequence must fit in the free blocks (vLLM). ``strict``: also leave
    what the running prefills still lack."""
    batching: str = "continuous"
    """``continuous`` | ``static`` (admit only into an empty batch; who ends early leaves a padded
    row behind)."""
    scheduler_cls: str | type = "default"
    """``default``, or a class of one's own (``core/interfaces.py``): the class, or its path
    ``package.module.Class`` or ``file.py:Class``."""
    speculative_ngram: int = 0
    """Draft tokens a step, looked up in the request's own text; 0 = no speculation."""
    prompt_lookup_min: int = 2
    """Fewest last tokens that an earlier place must match."""
    prompt_lookup_max: int = 4
    """Most last tokens that are looked up, tried first."""

    def __post_init__(self) -> None:
        _check_int("max_num_batched_tokens", self.max_num_batched_tokens, 1)
        _check_int("max_num_seqs", self.max_num_seqs, 1)
        if self.policy not in POLICIES:
            allowed = f"{' | '.join(POLICIES)} (the flag is --scheduling-policy)"
            raise ConfigError("policy", self.policy, allowed)
        _check_bool("enable_chunked_prefill", self.enable_chunked_prefill)
        _check_int("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        number = isinstance(self.watermark, (int, float)) and not isinstance(self.watermark, bool)
        if not number or not 0 <= self.watermark < 1:
            raise ConfigError("watermark", self.watermark, "a number, 0 to below 1")
        _check_choice("admission", self.admission, ADMISSIONS)
        _check_choice("batching", self.batching, BATCHINGS)
        _check_class("scheduler_cls", self.scheduler_cls, ("default",))
        _check_int("speculative_ngram", self.speculative_ngram, 0, 64)
        _check_int("prompt_lookup_min", self.prompt_lookup_min, 1)
        _check_int("prompt_lookup_max", self.prompt_lookup_max, self.prompt_lookup_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """Where the events go. With neither a path nor ``live`` the tracer is a no-op."""

    path: str | None = None
    """Write the run's events to this JSONL file."""
    live: bool = False
    """Keep the events in memory for viewers (the dashboard, the terminal)."""
    level: str = "structure"
    """``structure``: every decision. ``sampling``: also, of each token, the most likely tokens
    before and after the logits processors, and what each processor did. ``tensors``: also the
    arrays of each step (batch, K and V, attention weights), in files beside the trace."""
    tensors_limit: int = 256 * 2**20
    """Bytes of one step's arrays; a run keeps 16 times as many in files, or as many in memory."""
    retention: int | None = None
    """Keep the last so many steps, in memory and in the file; None: the file has all."""
    redact: bool = False
    """Write no prompt, output or token id: lengths and decisions only."""
    check: bool = False
    """Hold every step to the invariants while it runs; a breach is told (``trace.violation``)."""

    def __post_init__(self) -> None:
        _check_text("path", self.path, "a file's path")
        _check_choice("level", self.level, TRACE_LEVELS)
        _check_bool("live", self.live)
        if self.retention is not None:
            _check_int("retention", self.retention, 1)
        _check_bool("redact", self.redact)
        _check_bool("check", self.check)
        _check_int("tensors_limit", self.tensors_limit, 2**16)
        if self.redact and self.level == "tensors":
            raise ConfigError(
                "level",
                "tensors",
                "structure | sampling while redact is on: K, V and token ids are what was said",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How many engines there are, and where they run."""

    data_parallel_size: int = 1
    """Engines, each with the whole model and a KV pool of its own."""
    data_parallel_rank: int = 0
    """Which of them this one is, from 0; set by whoever starts it. It decides the GPU."""
    engine_processes: bool = False
    """Run each engine in a process of its own (``serve`` does); else on a thread of this one."""
    routing_policy: str = "prefix_aware"
    """``round_robin`` | ``least_loaded`` | ``prefix_aware``: which engine gets a request."""
    engine_stall_timeout: float = 15.0
    """Seconds without a sign of life (a heartbeat is due five times a second, in a long step, too)
    after which an engine's process is ended and started anew; 0 = never."""
    engine_step_timeout: float = 600.0
    """Seconds that one step may take while the process gives signs of life, likewise. Held by the
    gate is not counted."""

    def __post_init__(self) -> None:
        _check_int("data_parallel_size", self.data_parallel_size, 1, 64)
        _check_int("data_parallel_rank", self.data_parallel_rank, 0, 63)
        _check_bool("engine_processes", self.engine_processes)
        _check_choice("routing_policy", self.routing_policy, ROUTING_POLICIES)
        for name in ("engine_stall_timeout", "engine_step_timeout"):
            timeout = getattr(self, name)
            number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
            if not number or not 0 <= timeout < float("inf"):
                raise ConfigError(name, timeout, "seconds, 0 (never) or more")
        if self.data_parallel_size > 1 and not self.engine_processes:
            allowed = "1 while engine_processes is off: a thread's engine has no equal beside it"
            raise ConfigError("data_parallel_size", self.data_parallel_size, allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything one engine needs to start."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)

    def check_with_model_len(self, max_model_len: int) -> None:
        """Check what only makes sense once the context length (in tokens) is known.

        Raises ConfigError when chunked prefill is off and a prompt of the full context could
        then never be scheduled, since it would exceed the budget of every step.
        """
        budget = self.scheduler.max_num_batched_tokens
        if not self.scheduler.enable_chunked_prefill and budget < max_model_len:
            raise ConfigError(
                "max_num_batched_tokens",
                budget,
                f"at least max_model_len ({max_model_len}) while enable_chunked_prefill is off, "
                "since a prompt must then run in one step: raise max_num_batched_tokens, or lower "
                "max_model_len",
            )


_SECTIONS: dict[str, Any] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "parallel": ParallelConfig,
    "trace": TraceConfig,
}


ALIASES = {"scheduling_policy": "policy"}
"""vLLM's names (and our flags') for fields that are called otherwise here."""


def own_names(flat: dict[str, Any]) -> dict[str, Any]:
    """The same values under our names, so that what overrides them finds them."""
    return {ALIASES.get(name, name): value for name, value in flat.items()}


def make_config(base: EngineConfig | None = None, **flat: Any) -> EngineConfig:
    """An EngineConfig from flat names (``block_size=4, max_num_seqs=8``), over ``base``.

    This is the one place that knows which section a name belongs to: ``LLM(...)``, the command
    line, scenarios and forks all pass flat names. ``None`` means: leave it as it is. Raises
    ConfigError for a name that does not exist, with the nearest one that does.
    """
    for alias, name in ALIASES.items():
        value = flat.pop(alias, None)
        if None not in (value, flat.get(name)) and value != flat[name]:
            raise ConfigError(alias, value, f"one value; {name} is {flat[name]!r}")
        flat[name] = flat.get(name) if value is None else value
    base = base or EngineConfig()
    owner = {f.name: name for name, section in _SECTIONS.items() for f in fields(section)}
    changes: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    for name, value in flat.items():
        if name not in owner:
            near = difflib.get_close_matches(name, [*owner, *ALIASES], n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(name, value, f"{hint}one of {', '.join(sorted(owner))}")
        if value is not None:
            changes[owner[name]][name] = value
    sections = {name: replace(getattr(base, name), **new) for name, new in changes.items() if new}
    return replace(base, **sections)
