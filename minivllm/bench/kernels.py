"""What the GPU's kernels need and could reach, worked out without a GPU.

Each case is a launch as the engine makes it, of tensors without memory, with the bytes that must
move and the FLOPs that must be computed. Compiled for a target it tells registers, shared memory
and spills; bytes and FLOPs over the GPU's peaks tell the time that no kernel can beat (the
roofline, Williams et al. 2009, doi 10.1145/1498765.1498785).

The sizes are those of an 8B Llama: hidden 4,096, MLP 14,336, 32 query heads on 8 K/V heads of 128.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from minivllm.attention.kernels.aot import compile_launch
from minivllm.attention.kernels.configs import attention_config
from minivllm.attention.kernels.launch import Launch
from minivllm.attention.kernels.merge_splits import merge_splits
from minivllm.attention.kernels.paged_attention import paged_attention
from minivllm.attention.kernels.reshape_and_cache import reshape_and_cache
from minivllm.attention.kernels.rms_norm import rms_norm
from minivllm.attention.kernels.rope import rope
from minivllm.attention.kernels.silu_mul import silu_mul

HEAD_DIMS: tuple[int, ...] = (64, 80, 96, 128, 256)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_KV_HEADS, BLOCK_SIZE = 4096, 14336, 32, 8, 16
PREFILL, DECODES, CONTEXT, LONG_CONTEXT, SPLITS = 2048, 64, 2048, 8192, 32


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of GPU: what a program may use, and what the whole can do."""

    arch: int
    shared_bytes: int
    """Of one program at most (CUDA C++ Programming Guide, "Compute Capabilities")."""
    gpu: str = ""
    bytes_per_s: float = 0.0
    tensor_flops: float = 0.0
    """Per second, dense, in 16 bits."""
    float32_flops: float = 0.0
    """Per second, without tensor cores."""


TARGETS = {
    80: Target(80, 163 * 1024, "A100", 2.039e12, 312e12, 19.5e12),
    90: Target(90, 227 * 1024, "H100", 3.35e12, 989.4e12, 66.9e12),
    100: Target(100, 227 * 1024),
}
SOURCES = (
    "A100 SXM 80 GB: 2,039 GB/s, 312 TFLOP/s dense in 16 bits, 19.5 in float32 (NVIDIA A100 data "
    "sheet); H100 SXM: 3.35 TB/s, 989.4 and 66.9 (NVIDIA H100 architecture white paper)"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one workload."""

    kernel: str
    workload: str
    head_dim: int | None
    dtype: str
    launch: Launch
    bytes_moved: int
    """Each input read once, each output written once: what a perfect cache would leave."""
    flops: int
    """Without the masked half of a prefill's tiles, and without the rows a decode does not use."""
    matrix: bool
    """Computed by the tensor cores, where the type allows."""


@dataclass(frozen=True, slots=True)
class Row:
    """A case, compiled for a target."""

    kernel: str
    workload: str
    head_dim: int | None
    dtype: str
    arch: int
    tile: str
    """Rows × keys of an attention kernel."""
    num_warps: int
    num_stages: int
    registers: int
    shared_bytes: int
    shared_limit_bytes: int
    spilled_bytes: int
    bytes_moved: int
    flops: int
    flops_per_byte: float
    gpu: str
    roofline_us: float | None
    bound_by: str


def make_cases(arch: int, head_dim: int, dtype: str) -> Iterator[Case]:
    """Every kernel that a layer with heads of ``head_dim`` launches."""
    yield from _attention_cases(arch, head_dim, dtype)
    kind, size = DTYPES[dtype], DTYPES[dtype].itemsize
    tokens = PREFILL
    workload = f"{tokens} tokens"
    kv = _empty(tokens, 2 * NUM_KV_HEADS, head_dim, dtype=kind)
    moved = 2 * kv.nbytes + 8 * tokens
    launch = reshape_and_cache(
        kv[:, :NUM_KV_HEADS],
        kv[:, NUM_KV_HEADS:],
        _cache(tokens, head_dim, kind),
        _empty(tokens, dtype=torch.int64),
    )
    yield Case("reshape_and_cache", workload, head_dim, dtype, launch, moved, 0, False)

    qk = _empty(tokens, NUM_HEADS + NUM_KV_HEADS, head_dim, dtype=kind)
    cos = _empty(tokens, 1, head_dim // 2, dtype=kind)
    moved = 2 * qk.nbytes + 2 * cos.nbytes
    flops = 3 * qk.numel()
    yield Case("rope", workload, head_dim, dtype, rope(qk, qk, cos, cos), moved, flops, False)

    q, weight = qk[:, :NUM_HEADS], _empty(head_dim, dtype=kind)
    launch = rms_norm(_empty(*q.shape, dtype=kind), q, weight, 1e-5)
    moved, flops = 2 * q.numel() * size, 4 * q.numel()
    yield Case("rms_norm of heads", workload, head_dim, dtype, launch, moved, flops, False)

    x, weight = _empty(tokens, HIDDEN, dtype=kind), _empty(HIDDEN, dtype=kind)
    launch = rms_norm(x, x, weight, 1e-5, x, x)
    moved, flops = 4 * x.nbytes + weight.nbytes, 5 * x.numel()
    yield Case("rms_norm + residual", workload, None, dtype, launch, moved, flops, False)
    launch = rms_norm(x, x, weight, 1e-5)
    moved, flops = 2 * x.nbytes + weight.nbytes, 4 * x.numel()
    yield Case("rms_norm", workload, None, dtype, launch, moved, flops, False)

    out = _empty(tokens, INTERMEDIATE, dtype=kind)
    launch = silu_mul(out, _empty(tokens, 2 * INTERMEDIATE, dtype=kind))
    moved, flops = 3 * out.nbytes, 5 * out.numel()
    yield Case("silu_mul", workload, None, dtype, launch, moved, flops, False)


def _attention_cases(arch: int, head_dim: int, dtype: str) -> Iterator[Case]:
    kind = DTYPES[dtype]
    key_bytes = 2 * NUM_KV_HEADS * head_dim * kind.itemsize  # K and V of one token
    key_flops = 4 * NUM_HEADS * head_dim  # of one query with one key: two products
    for workload, reqs, tokens, context, splits in (
        (f"prefill, {PREFILL} tokens", 1, PREFILL, PREFILL, 1),
        (f"decode, {DECODES} × {CONTEXT} keys", DECODES, DECODES, CONTEXT, 1),
        (f"decode, 1 × {LONG_CONTEXT} keys, {SPLITS} splits", 1, 1, LONG_CONTEXT, SPLITS),
    ):
        decode = tokens == reqs
        q = _empty(tokens, NUM_HEADS + 2 * NUM_KV_HEADS, head_dim, dtype=kind)[:, :NUM_HEADS]
        result = _empty(tokens, NUM_HEADS, head_dim, dtype=kind)
        out, lse = result, None
        if splits > 1:
            out = _empty(tokens, NUM_HEADS, splits, head_dim, dtype=torch.float32)
            lse = _empty(tokens, NUM_HEADS, splits, dtype=torch.float32)
        launch = paged_attention(
            out,
            lse,
            q,
            _cache(reqs * context, head_dim, kind),
            _empty(reqs + 1, dtype=torch.int32),
            _empty(reqs, dtype=torch.int32),
            _empty(reqs, context // BLOCK_SIZE, dtype=torch.int32),
            attention_config(arch, kind, head_dim, decode=decode),
        )
        moved = reqs * context * key_bytes + q.numel() * kind.itemsize + out.nbytes
        seen = reqs * context if decode else tokens * (tokens + 1) // 2  # keys, over all queries
        flops = seen * key_flops
        yield Case("paged_attention", workload, head_dim, dtype, launch, moved, flops, True)
        if lse is not None:
            moved, flops = out.nbytes + lse.nbytes + result.nbytes, 3 * out.numel()
            launch = merge_splits(result, out, lse)
            name = f"1 token, {splits} splits"
            yield Case("merge_splits", name, head_dim, dtype, launch, moved, flops, False)


def compile_all(head_dim: int, dtype: str, archs: tuple[int, ...]) -> list[Row]:
    """Every kernel for every target; the rows of one kernel together."""
    per_target = [
        [compile_case(case, TARGETS[arch]) for case in make_cases(arch, head_dim, dtype)]
        for arch in archs
    ]
    return [row for rows in zip(*per_target, strict=True) for row in rows]


def compile_case(case: Case, target: Target) -> Row:
    """Raises what Triton raises when a kernel does not compile."""
    compiled = compile_launch(case.launch, target.arch)
    roofline_us, bound_by = roofline(case, target)
    return Row(
        kernel=case.kernel,
        workload=case.workload,
        head_dim=case.head_dim,
        dtype=case.dtype,
        arch=target.arch,
        tile=_tile(case.launch),
        num_warps=case.launch.num_warps,
        num_stages=case.launch.num_stages,
        registers=compiled.registers,
        shared_bytes=compiled.shared_bytes,
        shared_limit_bytes=target.shared_bytes,
        spilled_bytes=compiled.spilled_bytes,
        bytes_moved=case.bytes_moved,
        flops=case.flops,
        flops_per_byte=round(case.flops / case.bytes_moved, 3),
        gpu=target.gpu,
        roofline_us=roofline_us,
        bound_by=bound_by,
    )


def roofline(case: Case, target: Target) -> tuple[float | None, str]:
    """(least time in µs, what sets it); None for a target of which no peaks are stated."""
    if not target.gpu:
        return None, ""
    tensor = case.matrix and case.dtype != "float32"
    memory_us = 1e6 * case.bytes_moved / target.bytes_per_s
    compute_us = 1e6 * case.flops / (target.tensor_flops if tensor else target.float32_flops)
    return round(max(memory_us, compute_us), 3), "memory" if memory_us > compute_us else "compute"


def as_json(row: Row) -> dict[str, Any]:
    return asdict(row)


def problem(row: Row) -> str | None:
    """What keeps a compiled kernel from running well, or at all."""
    if row.shared_bytes > row.shared_limit_bytes:
        return f"{row.shared_bytes} bytes of shared memory, {row.shared_limit_bytes} are there"
    if row.spilled_bytes:
        return f"{row.spilled_bytes} bytes spilled"
    return None


def _tile(launch: Launch) -> str:
    args = launch.args
    return f"{args['BLOCK_M']}×{args['BLOCK_N']}" if "BLOCK_M" in args else ""


def _empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def _cache(num_tokens: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    num_blocks = 1 + num_tokens // BLOCK_SIZE
    return _empty(2, num_blocks, BLOCK_SIZE, NUM_KV_HEADS, head_dim, dtype=dtype)
