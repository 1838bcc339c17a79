"""Store the new tokens' K and V in the paged cache.

Follows vLLM's ``vllm/v1/attention/ops/triton_reshape_and_cache_flash.py``. Left out: scaling to
eight bits, tiles of one token for several programs.

One program copies one token, K and V of all its heads, to the slot that the scheduler chose::

    token  0   1   2   3   4       slot_mapping  [4, 5, 6, 28, -1]      block size 4
           │   │   │   │   ✕ padding: the program ends
           ▼   ▼   ▼   └─────────────────────────────────────────┐
    cache │ null block │ 4 5 6 · │ …                       │ 28 · · · │
            block 0      block 1                             block 7

Cost of a program: 4 · num_kv_heads · head_dim · element bytes, read and written, and no FLOP. For 8
heads of 128 in 16 bits these are 8 KiB; the neighbouring threads copy neighbouring elements.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.launch import Launch


@triton.jit
def reshape_and_cache_kernel(
    key_ptr,  # (num_tokens, num_kv_heads, HEAD_DIM)
    value_ptr,
    key_cache_ptr,  # (num_blocks, BLOCK_SIZE, num_kv_heads, HEAD_DIM)
    value_cache_ptr,  # the same, with the same strides
    slot_mapping_ptr,  # (num_tokens,) int64
    key_stride_token,
    key_stride_head,
    value_stride_token,
    value_stride_head,
    cache_stride_block,
    cache_stride_slot,
    cache_stride_head,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # num_kv_heads · HEAD_DIM
    WIDTH_PAD: tl.constexpr,  # that, up to a power of two
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    if slot < 0:
        return
    element = tl.arange(0, WIDTH_PAD)
    mask = element < WIDTH
    head, dim = element // HEAD_DIM, element % HEAD_DIM
    key = tl.load(key_ptr + token * key_stride_token + head * key_stride_head + dim, mask=mask)
    value = tl.load(
        value_ptr + token * value_stride_token + head * value_stride_head + dim, mask=mask
    )
    # `slot` is 64 bits wide, and so is every product with it.
    at = slot // BLOCK_SIZE * cache_stride_block + slot % BLOCK_SIZE * cache_stride_slot
    at = at + head * cache_stride_head + dim
    tl.store(key_cache_ptr + at, key, mask=mask)
    tl.store(value_cache_ptr + at, value, mask=mask)


def reshape_and_cache(
    k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> Launch:
    """k and v: (num_tokens, num_kv_heads, head_dim); ``kv_cache``: (2, num_blocks, block_size,
    num_kv_heads, head_dim); ``slot_mapping``: (num_tokens,) int64, -1 for a padding token."""
    num_tokens, num_kv_heads, head_dim = k.shape
    key_cache, value_cache = kv_cache.unbind()
    width = num_kv_heads * head_dim
    return Launch(
        reshape_and_cache_kernel,
        grid=(num_tokens,),
        args={
            "key_ptr": k,
            "value_ptr": v,
            "key_cache_ptr": key_cache,
            "value_cache_ptr": value_cache,
            "slot_mapping_ptr": slot_mapping,
            "key_stride_token": k.stride(0),
            "key_stride_head": k.stride(1),
            "value_stride_token": v.stride(0),
            "value_stride_head": v.stride(1),
            "cache_stride_block": key_cache.stride(0),
            "cache_stride_slot": key_cache.stride(1),
            "cache_stride_head": key_cache.stride(2),
            "BLOCK_SIZE": key_cache.shape[1],
            "HEAD_DIM": head_dim,
            "WIDTH": width,
            "WIDTH_PAD": triton.next_power_of_2(width),
        },
        num_warps=4,  # 128 threads with 8 elements each at a width of 1,024: 16 bytes a thread
    )
