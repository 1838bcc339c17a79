"""Attention weights, written out: what SDPA computes inside and never shows.

    weights = softmax(q · kᵀ / √head_dim), the keys of later tokens left out;  output = weights · v

A step whose tensors are captured (``worker/capture.py``) computes this beside the backend's own
attention, from the same queries and the same cached keys; no other step pays for it. No
counterpart in vLLM, whose kernels never hold the weights of a whole row.
"""

from __future__ import annotations

import math

import torch


def attention_weights(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """How much each query token of one request looks at each of its keys.

    q: (num_queries, num_heads, head_dim), the request's *last* tokens; keys: (num_keys,
    num_kv_heads, head_dim), all of its tokens so far. Returns (num_heads, num_queries, num_keys)
    float32; each row sums to 1, and is 0 where the key is of a later token than the query.
    """
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads, _ = keys.shape
    # Neighbouring query heads share a K/V head (GQA): heads 0, 1, 2 look at K/V head 0, and so on.
    keys = keys.repeat_interleave(num_heads // num_kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys.float()) / math.sqrt(head_dim)
    # Query j stands at position num_keys - num_queries + j and sees the keys up to itself.
    later = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device)
    later = later.triu(num_keys - num_queries + 1)
    return scores.masked_fill_(later, -math.inf).softmax(dim=-1)
