"""Tile sizes of the attention kernel, and in how many parts a sequence is split.

A table with reasons, not Triton's autotuner: that one times every candidate on the first call of
each shape, so which kernel runs, and the last bits of what it computes, would depend on how busy
the GPU was in that moment; and a CUDA graph cannot be captured while it measures. What the table
can be held to without a GPU is held in the tests: every entry compiles for sm_80, sm_90 and sm_100,
fits in their shared memory, and keeps all it has in registers (``minivllm bench kernels --aot``).
Counterpart in vLLM: the heuristics at the end of ``triton_unified_attention.py``.

What decides (A100: 108 SMs with 64 K registers and 164 KiB of shared memory each; H100: 132, 228):

* **Decode is bound by memory.** By Little's law a bandwidth of 2 TB/s with 600 ns on the way needs
  1.2 MB under way: 11 KiB an SM on an A100, 15 on an H100 (3.35 TB/s). One tile of 64 keys of 128
  in 16 bits is 16 KiB of K and as much of V. Three stages (the block's number, then K and V, then
  the product) keep one tile under way while another is computed, and three or four such programs
  share an SM.
* **Prefill is bound by the tensor cores.** BLOCK_M rows reuse each key that comes from L2: 128 rows
  in 16 bits are 128 FLOPs a byte, so an A100's 312 TFLOP/s ask 2.4 of the 7.2 TB/s that its L2
  gives (5,120 bytes a clock). An H100's 989 would ask 7.7: its peak is out of reach for this tile.
  The sums, BLOCK_M · head_dim in float32, stay in registers: 128 × 128 are 64 of each of 256
  threads' 255. At 256 they would not fit, so there it is 64 rows. sm_80 holds its operands in
  registers, too, and has room for 32 keys of 128; sm_90 and sm_100 multiply out of shared memory
  (wgmma, tcgen05) and take 64.
* **float32 is exact,** so it is computed without tensor cores: 16 rows reuse a key enough for 19.5
  TFLOP/s. Larger tiles spill: a product without tensor cores holds its operands in registers. Left
  alone the assembler would spill even so, two registers, to get down to the 64 with which a fourth
  program fits on an SM; told that 128 are fine it takes 112 and spills nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_HEAD_DIM = 256
MAX_SHARE = 16
"""Query heads on one K/V head: the rows of the smallest tile."""
MAX_SPLITS = 32
"""More parts than that, and merging them costs what splitting saves."""
PROGRAMS_PER_SM = 2
"""So many decode programs keep an SM's memory busy (see above)."""
TILES_PER_SPLIT = 4
"""A program with fewer tiles spends its time on starting, and on loading the first."""


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """How the attention kernel is cut."""

    block_m: int
    """Rows of one program: query tokens times the query heads of a K/V head."""
    block_n: int
    """Keys of one tile."""
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    """Of a thread; None: as many as the assembler thinks best."""


def padded_head_dim(head_dim: int) -> int:
    """Up to a power of two, which a tile's width must be; 16 is the tensor core's least."""
    return max(16, 1 << (head_dim - 1).bit_length())


def attention_config(
    arch: int, dtype: torch.dtype, head_dim: int, *, decode: bool
) -> AttentionConfig:
    """``arch``: 80 for sm_80, and so on. ``decode``: one token a request."""
    width = padded_head_dim(head_dim)
    wide = width > 128
    if dtype == torch.float32:
        return AttentionConfig(16, 16 if wide else 32, 8, num_stages=2, max_registers=128)
    if decode:
        return AttentionConfig(16, 32 if wide else 64, num_warps=4, num_stages=3)
    if wide:
        return AttentionConfig(64, 32, num_warps=8, num_stages=3)
    block_n = 32 if arch < 90 and width > 64 else 64
    return AttentionConfig(128, block_n, num_warps=8, num_stages=3)


def num_splits(num_programs: int, max_seq_len: int, block_n: int, num_sms: int) -> int:
    """In how many parts, a power of two, to split the keys of each of ``num_programs`` decode
    programs: enough to fill the GPU, few enough that each part has something to do."""
    splits = 1
    tiles = max_seq_len // block_n
    while (
        splits < MAX_SPLITS
        and num_programs * splits < PROGRAMS_PER_SM * num_sms
        and tiles >= 2 * splits * TILES_PER_SPLIT
    ):
        splits *= 2
    return splits
