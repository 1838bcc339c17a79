"""The engine's flags as data: what each is called, which field it sets, what its help says.

``options.py`` gives them to commands. Counterpart in vLLM: the ``add_argument`` calls of
``vllm/engine/arg_utils.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from minivllm.config import (
    ADMISSIONS,
    ATTENTION_BACKENDS,
    BATCHINGS,
    DTYPES,
    KV_MANAGERS,
    POLICIES,
    QUANTIZATIONS,
    RESERVES,
    ROUTING_POLICIES,
    TRACE_LEVELS,
)
from minivllm.errors import ConfigError

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of the engine."""

    field: str
    """The field of a configuration section that it sets."""
    kind: type
    names: str
    panel: str
    help: str
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    short: str | None = None


def parse_size(text: str, field: str = "kv_cache_memory") -> int:
    """``512MiB``, ``2GB`` or plain bytes → bytes. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if not found or found[2].lower() not in UNITS:
        raise ConfigError(field, text, "a size such as 512MiB, 2GB or 536870912")
    return int(float(found[1]) * UNITS[found[2].lower()])


def show_size(size_bytes: int) -> str:
    """``536870912`` → ``512MiB``, where it comes out even."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes % unit == 0:
            return f"{size_bytes // unit}{name}"
    return str(size_bytes)


_MODEL, _POOL, _SCHEDULER, _TRACE = "The model", "The KV pool", "The scheduler", "The trace"
_ENGINES = "Engines and processes"

FLAGS = (
    Flag(
        "model",
        str,
        "--model",
        _MODEL,
        "What to run: the alias smollm2-135m (fetched once, 93 MB), a directory with safetensors, "
        "a .gguf file, or a hub id such as org/name; of Llama, Mistral, Qwen2 or Qwen3.",
        metavar="MODEL",
    ),
    Flag(
        "dtype",
        str,
        "--dtype",
        _MODEL,
        "Numbers of weights and KV cache: float32 (exact, the reference), bfloat16 or float16 "
        "(half the memory; the last bits may depend on the batch), auto (bfloat16 on a GPU, else "
        "float32), or fast (bfloat16 on a CPU, too, if it is faster in that, measured at the "
        "start: three times as fast or more). serve and chat: fast, unless told otherwise.",
        metavar="|".join(DTYPES),
    ),
    Flag(
        "quantization",
        str,
        "--quantization",
        _MODEL,
        "auto: where the file's own matrices are codes of 4 or 8 bits (Q4_0, Q4_1, Q8_0) and the "
        "dtype is bfloat16, a CPU computes with these: the fastest way, and the least memory, if "
        "it has AVX-512 VNNI and cc is there. none: never. q4: refuse to start without 4-bit ones.",
        metavar="|".join(QUANTIZATIONS),
    ),
    Flag(
        "attention_backend",
        str,
        "--attention-backend",
        _MODEL,
        "Whose kernels compute attention and norms: torch, native (bfloat16 on a CPU; compiled "
        "with cc at the first start), triton (needs an NVIDIA GPU; or set TRITON_INTERPRET=1, "
        "which runs them as slow Python), or auto (triton on a GPU; else native where it can be).",
        metavar="|".join(ATTENTION_BACKENDS),
    ),
    Flag(
        "enforce_eager",
        bool,
        "--enforce-eager/--no-enforce-eager",
        _MODEL,
        "On a GPU: launch each kernel of a decode step from Python, instead of replaying a CUDA "
        "graph recorded at the start. Slower; starts sooner, and a debugger sees each kernel.",
    ),
    Flag(
        "max_model_len",
        int,
        "--max-model-len",
        _MODEL,
        "Most tokens of one request, prompt and output together. Default: what the model was "
        "trained for.",
    ),
    Flag(
        "seed",
        int,
        "--seed",
        _MODEL,
        "Seed of the run: requests without a seed of their own draw from it and from their "
        "ordinal, so a run can be repeated.",
    ),
    Flag(
        "block_size",
        int,
        "--block-size",
        _POOL,
        "Tokens in one KV block. Small blocks waste less at a sequence's end and share more "
        "exactly; each costs an entry in a table.",
    ),
    Flag(
        "num_kv_blocks",
        int,
        "--num-kv-blocks",
        _POOL,
        "Blocks in the pool, block 0 (the null block) included. Wins over --kv-cache-memory. Make "
        "it small to watch preemption and eviction.",
    ),
    Flag(
        "kv_cache_memory",
        str,
        "--kv-cache-memory",
        _POOL,
        "Memory of the pool, such as 512MiB or 2GB; divided by the bytes of one block it gives "
        "the number of blocks. Default: 512 MiB on a CPU; on a GPU what --gpu-memory-utilization "
        "leaves.",
        parse=parse_size,
        metavar="SIZE",
    ),
    Flag(
        "gpu_memory_utilization",
        float,
        "--gpu-memory-utilization",
        _POOL,
        "Share of a GPU's memory (above 0, up to 1) that the engine may take: the weights and the "
        "largest step, which is run once to measure it, and the pool, which gets the rest.",
    ),
    Flag(
        "enable_prefix_caching",
        bool,
        "--enable-prefix-caching/--no-enable-prefix-caching",
        _POOL,
        "Keep full blocks findable by the hash of their content and all before it: a prompt that "
        "begins like an earlier one takes those blocks over instead of computing them.",
    ),
    Flag(
        "kv_manager_cls",
        str,
        "--kv-manager-cls",
        _POOL,
        "Who hands out blocks. paged: any block, when it is needed. contiguous: neighbours, all at "
        "the start, as engines did before paging (needs --no-enable-prefix-caching). Or a class of "
        "your own: package.module.Class or file.py:Class (see examples/).",
        metavar="|".join([*KV_MANAGERS, "CLASS"]),
    ),
    Flag(
        "contiguous_reserve",
        str,
        "--contiguous-reserve",
        _POOL,
        "What contiguous sets aside for a request: max_model_len, or request (its prompt and "
        "max_tokens).",
        metavar="|".join(RESERVES),
    ),
    Flag(
        "max_num_batched_tokens",
        int,
        "--max-num-batched-tokens",
        _SCHEDULER,
        "Token budget of one step, for prompts and decodes together. Large: prompts are through "
        "sooner. Small: running requests get their next token sooner.",
    ),
    Flag(
        "max_num_seqs",
        int,
        "--max-num-seqs",
        _SCHEDULER,
        "Requests that may run at once; the others wait, even if blocks are free.",
    ),
    Flag(
        "enable_chunked_prefill",
        bool,
        "--enable-chunked-prefill/--no-enable-chunked-prefill",
        _SCHEDULER,
        "May a prompt run in pieces over several steps? Without it a prompt waits until one "
        "step's budget has room for all of it; so --max-num-batched-tokens must be at least "
        "--max-model-len.",
    ),
    Flag(
        "long_prefill_token_threshold",
        int,
        "--long-prefill-token-threshold",
        _SCHEDULER,
        "Most tokens of one prompt in one step, so that a long prompt leaves room for others. 0: "
        "no limit but the budget.",
    ),
    Flag(
        "watermark",
        float,
        "--watermark",
        _SCHEDULER,
        "Share of the pool (0 to below 1) that an admission must leave free while others run, so "
        "that they can grow without preempting. 0: none.",
    ),
    Flag(
        "policy",
        str,
        "--scheduling-policy",
        _SCHEDULER,
        "fcfs: in order of arrival. priority: the smaller number first; the last in this order is "
        "preempted first.",
        metavar="|".join(POLICIES),
    ),
    Flag(
        "admission",
        str,
        "--admission",
        _SCHEDULER,
        "full: a request is admitted if its whole sequence fits in the free blocks (as vLLM). "
        "strict: it must also leave what the running prefills still lack.",
        metavar="|".join(ADMISSIONS),
    ),
    Flag(
        "batching",
        str,
        "--batching",
        _SCHEDULER,
        "continuous: who waits may join in every step. static: only an empty batch is filled, and "
        "whoever ends early leaves a padded row until the last one ends.",
        metavar="|".join(BATCHINGS),
    ),
    Flag(
        "scheduler_cls",
        str,
        "--scheduler-cls",
        _SCHEDULER,
        "A scheduler of your own: package.module.Class or file.py:Class (see examples/).",
        metavar="CLASS",
    ),
    Flag(
        "speculative_ngram",
        int,
        "--speculative-ngram",
        _SCHEDULER,
        "Guess up to N tokens a step by looking up what followed the last few tokens earlier in "
        "the text; the model checks all of them in one step. Same tokens, fewer steps. 0: off.",
    ),
    Flag(
        "prompt_lookup_min",
        int,
        "--prompt-lookup-min",
        _SCHEDULER,
        "Fewest last tokens that must have been seen before, for a guess.",
    ),
    Flag(
        "prompt_lookup_max",
        int,
        "--prompt-lookup-max",
        _SCHEDULER,
        "Most last tokens that are looked up; the longest match wins.",
    ),
    Flag(
        "data_parallel_size",
        int,
        "--data-parallel-size",
        _ENGINES,
        "Engines, each a process with the whole model, a KV pool and its share of the cores.",
        short="-dp",
    ),
    Flag(
        "engine_processes",
        bool,
        "--engine-processes/--no-engine-processes",
        _ENGINES,
        "Run each engine in a process of its own, which is started again when it dies. serve does "
        "unless told otherwise; elsewhere the engine is a thread.",
    ),
    Flag(
        "routing_policy",
        str,
        "--routing-policy",
        _ENGINES,
        "Which engine gets a request. round_robin: by turn. least_loaded: the one with the fewest "
        "tokens to run. prefix_aware: the one that would be through first, tokens to run and those "
        "of the prompt that it has not cached together.",
        metavar="|".join(ROUTING_POLICIES),
    ),
    Flag(
        "engine_stall_timeout",
        float,
        "--engine-stall-timeout",
        _ENGINES,
        "Seconds without a sign of life after which an engine's process, frozen as it is, is ended "
        "and started again. 0: never.",
    ),
    Flag(
        "engine_step_timeout",
        float,
        "--engine-step-timeout",
        _ENGINES,
        "Seconds that one step of an engine may take (paused does not count) before its process is "
        "ended and started again. 0: for ever.",
    ),
    Flag(
        "path",
        str,
        "--trace",
        _TRACE,
        "Write every decision of the run to this file, one JSON event a line; read it with "
        "`minivllm replay` or in the dashboard.",
        metavar="FILE",
    ),
    Flag(
        "level",
        str,
        "--trace-level",
        _TRACE,
        "structure: every decision. sampling: also the likeliest tokens before and after the "
        "logits processors, and what each of these did. tensors: also the arrays of each step, K "
        "and V and the attention weights, as files in FILE.tensors/ (slow, and large).",
        metavar="|".join(TRACE_LEVELS),
    ),
    Flag(
        "tensors_limit",
        str,
        "--trace-tensors-limit",
        _TRACE,
        "Most bytes of one step's arrays, such as 64MiB; what does not fit is left out, and the "
        "trace says so. A run keeps 16 times as many.",
        parse=partial(parse_size, field="tensors_limit"),
        metavar="SIZE",
    ),
    Flag(
        "retention",
        int,
        "--trace-retention",
        _TRACE,
        "Keep only the last N steps of the trace, in the file (which then has N to 2N) and in "
        "memory: for a server that runs for weeks. It begins with a snapshot. Default: all.",
    ),
    Flag(
        "redact",
        bool,
        "--trace-redact/--no-trace-redact",
        _TRACE,
        "Leave out what was said: texts become “…” and token ids 0, one for one. Decisions, "
        "lengths and block hashes stay.",
    ),
    Flag(
        "check",
        bool,
        "--trace-check/--no-trace-check",
        _TRACE,
        "Hold every step to the invariants of queues, tables and pool while the engine runs: a "
        "breach becomes an event and a red banner. For a scheduler or KV manager of one's own; "
        "costs a look at every block after each step.",
    ),
)
