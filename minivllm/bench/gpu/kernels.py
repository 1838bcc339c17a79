"""The kernels on the device: right against float64, and how fast against torch's own.

The reference is the torch backend on the CPU in float64. Each case is a ragged batch: decodes,
chunks behind a cached prefix, prompts from the start, blocks in random order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from minivllm.attention.metadata import AttentionBackend, AttentionMetadata
from minivllm.attention.torch_backend import TorchAttention
from minivllm.bench.gpu.check import Check, microseconds
from minivllm.models.operators import Operators, TorchOperators

HEAD_DIMS = (64, 80, 96, 128, 256)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Times 1 + the number expected. In 16 bits the weights of attention are rounded before they meet
the values, as tensor cores take them, and so is the sum."""

Chunks = list[tuple[int, int]]
"""Per request: tokens computed before, tokens now."""

BATCHES: dict[str, Chunks] = {
    "decodes": [(30, 1), (1, 1), (500, 1), (0, 1)],
    "one long decode": [(5000, 1)],
    "prompts and chunks": [(0, 70), (33, 40), (16, 16), (129, 1)],
}
TIMED: dict[str, Chunks] = {
    "64 decodes, 1,024 keys each": [(1023, 1)] * 64,
    "1 decode, 8,192 keys": [(8191, 1)],
    "1 prompt of 2,048": [(0, 2048)],
    "8 chunks of 256 behind 1,024": [(1024, 256)] * 8,
}


@dataclass(slots=True)
class Batch:
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    kv_cache: torch.Tensor
    metadata: AttentionMetadata
    block_size: int

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """A copy there; the numbers in this type, the metadata as they are."""
        meta = self.metadata
        return Batch(
            self.q.to(device, dtype),
            self.k.to(device, dtype),
            self.v.to(device, dtype),
            self.kv_cache.to(device, dtype, copy=True),  # it is written to
            AttentionMetadata(
                meta.query_start_loc.to(device),
                meta.seq_lens.to(device),
                meta.block_table.to(device),
                meta.slot_mapping.to(device),
            ),
            self.block_size,
        )

    def run(self, backend: AttentionBackend) -> torch.Tensor:
        step = backend.prepare(self.metadata, self.block_size)
        return step.forward(self.q, self.k, self.v, self.kv_cache)


def make_batch(chunks: Chunks, head_dim: int, block_size: int = 16, kv_heads: int = 2) -> Batch:
    """Four query heads on a K/V head; blocks in random order, the same in each run."""
    generator = torch.Generator().manual_seed(head_dim)
    blocks_of = [-(-(before + now) // block_size) for before, now in chunks]
    order = (torch.randperm(sum(blocks_of), generator=generator) + 1).tolist()
    table = torch.zeros(len(chunks), max(blocks_of), dtype=torch.int32)
    slots: list[int] = []
    for i, (before, now) in enumerate(chunks):
        mine = [order.pop() for _ in range(blocks_of[i])]
        table[i, : len(mine)] = torch.tensor(mine, dtype=torch.int32)
        places = range(before, before + now)
        slots += [mine[p // block_size] * block_size + p % block_size for p in places]
    counts = torch.tensor([0] + [now for _, now in chunks])
    normal = partial(torch.randn, generator=generator)
    cache = normal(2, 1 + sum(blocks_of), block_size, kv_heads, head_dim)
    cache[:, 0] = 0
    return Batch(
        normal(len(slots), 4 * kv_heads, head_dim),
        normal(len(slots), kv_heads, head_dim),
        normal(len(slots), kv_heads, head_dim),
        cache,
        AttentionMetadata(
            query_start_loc=counts.cumsum(0).int(),
            seq_lens=torch.tensor([before + now for before, now in chunks], dtype=torch.int32),
            block_table=table,
            slot_mapping=torch.tensor(slots),
        ),
        block_size,
    )


def worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest |difference| / (1 + |expected|); infinite where something is not finite."""
    got = got.cpu().double()
    if not bool(got.isfinite().all()):
        return float("inf")
    return float(((got - expected).abs() / (1 + expected.abs())).max())


def attention_numbers(check: Check, backend: AttentionBackend, device: torch.device) -> None:
    """Every head size, type and kind of batch against float64."""
    for (name, chunks), head_dim, dtype in itertools.product(BATCHES.items(), HEAD_DIMS, TOLERANCE):
        batch = make_batch(chunks, head_dim)
        rounded = batch.to(torch.device("cpu"), dtype)  # the reference sees what the kernel sees
        expected = rounded.to(torch.device("cpu"), torch.float64).run(TorchAttention())
        error = worst(rounded.to(device, dtype).run(backend), expected)
        judge(check, f"{name}, heads of {head_dim}", dtype, error)


def operator_numbers(check: Check, operators: Operators, device: torch.device) -> None:
    """Norms, rotation, SiLU·mul against torch in float64."""
    reference = TorchOperators()
    generator = torch.Generator().manual_seed(1)
    normal = partial(torch.randn, generator=generator)
    for width, dtype in itertools.product((576, 1000, 4096), TOLERANCE):
        x, y, w = normal(33, width), normal(33, width), normal(width)
        heads = normal(33, 5, 64)
        angle = normal(33, 1, 32)
        cases: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {
            "rms_norm": (lambda o, x, w: o.rms_norm(x, w, 1e-5), (x, w)),
            "add_rms_norm": (lambda o, x, y, w: o.add_rms_norm(x, y, w, 1e-5)[0], (x, y, w)),
            "rope": (lambda o, h, c, s: o.rotate(h, c, s), (heads, angle.cos(), angle.sin())),
            "silu_mul": (lambda o, x: o.silu_mul(x), (x,)),
        }
        for name, (call, arguments) in cases.items():
            rounded = [a.to(dtype) for a in arguments]
            expected = call(reference, *(a.double() for a in rounded))
            error = worst(call(operators, *(a.to(device) for a in rounded)), expected)
            judge(check, f"{name}, {width} wide", dtype, error)


def judge(check: Check, case: str, dtype: torch.dtype, error: float) -> None:
    limit = TOLERANCE[dtype]
    name = str(dtype).removeprefix("torch.")
    check.rows.append({"case": case, "dtype": name, "error": error, "limit": limit})
    if error > limit:
        check.state = "failed"
        check.words += f"{case}, {name}: off by {error:.1e}, {limit:.0e} allowed. "


def attention_times(
    check: Check, backend: AttentionBackend, device: torch.device, dtype: torch.dtype
) -> None:
    """One layer's attention of an 8B Llama (32 heads on 8, of 128): ours and torch's."""
    for name, chunks in TIMED.items():
        batch = make_batch(chunks, 128, kv_heads=8).to(device, dtype)
        keys = sum(before + now for before, now in chunks)
        ours, theirs = (
            microseconds(device, partial(batch.run, one)) for one in (backend, TorchAttention())
        )
        read = 2 * keys * 8 * 128 * batch.q.element_size()
        check.rows.append(
            {
                "case": name,
                "ours_us": round(ours, 1),
                "torch_us": round(theirs, 1),
                "ratio": round(theirs / ours, 2),
                "kv_gb_per_s": round(read / ours / 1e3, 1),
            }
        )
