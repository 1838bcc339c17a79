"""Attention of a flat batch over the paged KV cache: prefill, chunks and decodes in one kernel.

Follows vLLM's ``vllm/v1/attention/ops/triton_unified_attention.py``; the ideas are those of
PagedAttention (arXiv 2309.06180: K and V in blocks), FlashAttention-2 (arXiv 2307.08691: online
softmax over tiles of keys) and Flash-Decoding (a sequence split over programs). Left out: sliding
windows, ALiBi, soft caps, quantised caches, a loop of its own for the tiles that no mask touches.

**Who computes what.** A program takes BLOCK_Q neighbouring query tokens of *one* request, with all
SHARE query heads that read one K/V head (GQA), and walks over the request's keys::

                               keys of the request, BLOCK_N at a time
                               tile 0    tile 1    tile 2
        token 4, head 0      ┌─────────┬─────────┬─────────┐
        token 4, head 1      │ seen    │ seen    │ ■ □ □ □ │    ■ key ≤ the token's position
        token 5, head 0      │         │         │ ■ ■ □ □ │    □ later: masked
        token 5, head 1      └─────────┴─────────┴─────────┘
        BLOCK_M rows             K and V are loaded once for all rows

The heads are rows as tokens are: of a decode, which has one token, SHARE rows of the tensor core's
sixteen are in use instead of one, and K and V are read once for all of them.

**Which request.** The grid cannot follow the batch without asking the GPU how long each request is,
which would stop the CPU in every step. So it is as long as the worst case, num_tokens // BLOCK_Q +
num_reqs + 1, and request i owns the programs from start_i // BLOCK_Q + i on. Every program finds
its own by a binary search; those left over end at once::

        BLOCK_Q = 4        request 0: 6 tokens      request 1: 1   request 2: 5
        query_start_loc    0                        6              7                12
        first program      0                        1+1 = 2        1+2 = 3          3+3 = 6
        program            0: tokens 0–3            2: token 0     3: tokens 0–3    6: padding
                           1: tokens 4–5                           4: token 4
                                                                   5: nothing

What lies behind the last request is padding. It is taken for one more request, without keys: its
rows become zeros, and no cell of the output is left unwritten.

**Split** (decode with few requests): program (·, ·, s) walks over the s-th part of the keys only
and leaves its part of the result, with the logarithm of its weights' sum, for ``merge_splits.py``.

**Cost** of a program over n keys, head size D, element e bytes: it reads 2·n·D·e bytes of K and V
(from memory once per K/V head; what other programs of the request read comes from L2), and
computes 4·BLOCK_M·n·D FLOPs. A decode with SHARE 4 in 16 bits does 4·4·D·n FLOPs on 4·D·n bytes: 4
FLOPs a byte, where an A100 needs 150 to be busy. So decode is as fast as memory, and the sixteen
rows, most of them empty, cost nothing. A prefill of 64 rows or more in flight reuses each key by
BLOCK_M rows: 2·BLOCK_M / e FLOPs a byte from L2, bound by the tensor cores.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.configs import AttentionConfig, padded_head_dim
from minivllm.attention.kernels.launch import INTERPRETED, Launch


@triton.jit
def find_request(query_start_loc_ptr, q_block, num_reqs, BLOCK_Q: tl.constexpr):
    """The last i in 0 … num_reqs with start_i // BLOCK_Q + i ≤ q_block; num_reqs is the padding."""
    low = 0  # always a candidate: start_0 is 0
    high = num_reqs + 1  # never one
    while high - low > 1:
        middle = (low + high) // 2
        first = tl.load(query_start_loc_ptr + middle) // BLOCK_Q + middle
        low = tl.where(first <= q_block, middle, low)
        high = tl.where(first <= q_block, high, middle)
    return low


@triton.jit
def widen(x, WIDEN: tl.constexpr):
    """The interpreter has no bfloat16 product; float32 holds the same numbers."""
    return x.to(tl.float32) if WIDEN else x


# What differs from step to step must not be compiled in: Triton would make a kernel for 1, one for
# multiples of 16, and one for the rest.
@triton.jit(do_not_specialize=["num_tokens", "num_reqs", "num_splits", "table_stride"])
def paged_attention_kernel(
    out_ptr,  # (num_tokens, num_heads, HEAD_DIM); with SPLIT (…, num_splits, HEAD_DIM) float32
    lse_ptr,  # with SPLIT: (num_tokens, num_heads, num_splits) float32, log2 of the weights' sum
    q_ptr,  # (num_tokens, num_heads, HEAD_DIM)
    key_cache_ptr,  # (num_blocks, BLOCK_SIZE, num_kv_heads, HEAD_DIM)
    value_cache_ptr,  # the same, with the same strides
    query_start_loc_ptr,  # (num_reqs + 1,) int32
    seq_lens_ptr,  # (num_reqs,) int32
    block_table_ptr,  # (num_reqs, max_blocks) int32
    scale_log2e,  # log2(e) / √HEAD_DIM: the weights are powers of 2, which the GPU has
    num_tokens,
    num_reqs,
    num_splits,
    q_stride_token,
    q_stride_head,
    out_stride_token,
    out_stride_head,
    cache_stride_block,
    cache_stride_slot,
    cache_stride_head,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,  # HEAD_DIM up to a power of two; what is beyond is masked
    SHARE: tl.constexpr,  # query heads of one K/V head
    BLOCK_Q: tl.constexpr,  # BLOCK_M // SHARE
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    q_block, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    req = find_request(query_start_loc_ptr, q_block, num_reqs, BLOCK_Q)
    is_request = req < num_reqs
    start = tl.load(query_start_loc_ptr + req)
    stop = tl.load(query_start_loc_ptr + req + 1, mask=is_request, other=num_tokens)
    seq_len = tl.load(seq_lens_ptr + req, mask=is_request, other=0)
    first = (q_block - (start // BLOCK_Q + req)) * BLOCK_Q  # its first token within the chunk
    query_len = stop - start
    if first >= query_len:
        return

    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_PAD)
    query = first + rows // SHARE  # (BLOCK_M,) token within the chunk
    head = kv_head * SHARE + rows % SHARE
    position = seq_len - query_len + query  # its place in the sequence
    # BLOCK_M may be no multiple of SHARE: the rows left over belong to no token of this program.
    row_mask = (rows < BLOCK_Q * SHARE) & (query < query_len)
    mask = row_mask[:, None] & (dims < HEAD_DIM)[None, :]  # (BLOCK_M, HEAD_PAD)
    # Offsets are 64 bits wide from the first product on: a cache has more than 2³¹ elements.
    token = (start + query).to(tl.int64)
    q_at = token[:, None] * q_stride_token + head[:, None] * q_stride_head + dims[None, :]
    q = tl.load(q_ptr + q_at, mask=mask, other=0.0)

    end = tl.minimum(seq_len - query_len + first + BLOCK_Q, seq_len)  # no row sees a key beyond
    num_tiles = tl.cdiv(tl.maximum(end, 0), BLOCK_N)
    tile_from, tile_to = 0, num_tiles
    if SPLIT:
        tiles_each = tl.cdiv(num_tiles, num_splits)
        tile_from = split * tiles_each
        tile_to = tl.minimum(tile_from + tiles_each, num_tiles)

    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)  # of a row's scores so far
    total = tl.zeros([BLOCK_M], tl.float32)  # Σ 2^(score - highest)
    acc = tl.zeros([BLOCK_M, HEAD_PAD], tl.float32)  # Σ 2^(score - highest) · value
    table = block_table_ptr + req.to(tl.int64) * table_stride
    for tile in range(tile_from, tile_to):
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,) places in the sequence
        exists = key < end
        block = tl.load(table + key // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        at = block * cache_stride_block + key % BLOCK_SIZE * cache_stride_slot
        at = at + kv_head * cache_stride_head
        # Beyond `end` a block holds what an earlier owner left, a NaN even: it is not read.
        kv_mask = exists[:, None] & (dims < HEAD_DIM)[None, :]  # (BLOCK_N, HEAD_PAD)
        k = tl.load(key_cache_ptr + at[:, None] + dims[None, :], mask=kv_mask, other=0.0)
        scores = tl.dot(widen(q, WIDEN), tl.trans(widen(k, WIDEN)), input_precision=PRECISION)
        scores = scores * scale_log2e
        scores = tl.where(key[None, :] <= position[:, None], scores, float("-inf"))

        # Online softmax: when a higher score turns up, what was summed so far shrinks by 2^(old -
        # new). A row of which no key was seen yet would compute inf - inf; 0 stands in for it.
        higher = tl.maximum(highest, tl.max(scores, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - finite[:, None])  # (BLOCK_M, BLOCK_N)
        shrink = tl.exp2(highest - finite)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(value_cache_ptr + at[:, None] + dims[None, :], mask=kv_mask, other=0.0)
        weights = widen(weights.to(v.dtype), WIDEN)  # rounded as the tensor cores take them
        acc = tl.dot(weights, widen(v, WIDEN), acc * shrink[:, None], input_precision=PRECISION)
        highest = higher

    nobody = total == 0.0  # padding, or a split without a key for this row
    total = tl.where(nobody, 1.0, total)
    acc = acc / total[:, None]
    if SPLIT:
        num_heads = tl.num_programs(1) * SHARE
        part = (token * num_heads + head) * num_splits + split
        lse = tl.where(nobody, float("-inf"), highest + tl.log2(total))
        tl.store(lse_ptr + part, lse, mask=row_mask)
        part_at = part[:, None] * HEAD_DIM + dims[None, :]
        tl.store(out_ptr + part_at, acc, mask=mask & (lse > float("-inf"))[:, None])
    else:
        out_at = token[:, None] * out_stride_token + head[:, None] * out_stride_head
        tl.store(out_ptr + out_at + dims[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


def paged_attention(
    out: torch.Tensor,
    lse: torch.Tensor | None,
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    config: AttentionConfig,
) -> Launch:
    """Fill ``out`` (num_tokens, num_heads, head_dim). With ``lse`` (num_tokens, num_heads,
    num_splits), fill that and ``out`` (num_tokens, num_heads, num_splits, head_dim), both float32
    and contiguous. ``kv_cache``: (2, num_blocks, block_size, num_kv_heads, head_dim)."""
    num_tokens, num_heads, head_dim = q.shape
    key_cache, value_cache = kv_cache.unbind()
    block_size, num_kv_heads = key_cache.shape[1:3]
    share, num_reqs = num_heads // num_kv_heads, seq_lens.shape[0]
    block_q = config.block_m // share
    num_splits = 1 if lse is None else lse.shape[2]
    return Launch(
        paged_attention_kernel,
        grid=(num_tokens // block_q + num_reqs + 1, num_kv_heads, num_splits),
        args={
            "out_ptr": out,
            "lse_ptr": lse,
            "q_ptr": q,
            "key_cache_ptr": key_cache,
            "value_cache_ptr": value_cache,
            "query_start_loc_ptr": query_start_loc,
            "seq_lens_ptr": seq_lens,
            "block_table_ptr": block_table,
            "scale_log2e": math.log2(math.e) / math.sqrt(head_dim),
            "num_tokens": num_tokens,
            "num_reqs": num_reqs,
            "num_splits": num_splits,
            "q_stride_token": q.stride(0),
            "q_stride_head": q.stride(1),
            "out_stride_token": out.stride(0),
            "out_stride_head": out.stride(1),
            "cache_stride_block": key_cache.stride(0),
            "cache_stride_slot": key_cache.stride(1),
            "cache_stride_head": key_cache.stride(2),
            "table_stride": block_table.stride(0),
            "BLOCK_SIZE": block_size,
            "HEAD_DIM": head_dim,
            "HEAD_PAD": padded_head_dim(head_dim),
            "SHARE": share,
            "BLOCK_Q": block_q,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "SPLIT": lse is not None,
            # float32 is the exact path: no rounding to TF32's ten bits on the way.
            "PRECISION": "ieee",
            "WIDEN": INTERPRETED and q.dtype == torch.bfloat16,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        max_registers=config.max_registers,
    )
