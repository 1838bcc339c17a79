"""Block hashes: a full block is named by its own tokens and all that came before it.

Counterpart in vLLM: ``hash_block_tokens`` in ``vllm/v1/core/kv_cache_utils.py``. Left out: extra
keys for LoRA and multimodal inputs.

    block 0              block 1                    block 2
    SHA(∅, t0‥t15, salt) SHA(hash 0, t16‥t31, ∅)    SHA(hash 1, t32‥t47, ∅)

Since each hash contains its parent's, an equal hash means an equal prefix: one look-up per block
finds the longest one, and no prompts are compared.
"""

from __future__ import annotations

import hashlib
import struct


def hash_block(parent: bytes | None, token_ids: list[int], extra: str = "") -> bytes:
    """SHA-256 of (parent's hash, token ids, extra); 32 bytes.

    ``extra`` is the ``cache_salt`` in the first block and empty after it: every later hash
    contains the salt through its parent.
    """
    digest = hashlib.sha256(parent or b"")
    digest.update(struct.pack(f"<{len(token_ids)}q", *token_ids))
    digest.update(extra.encode())
    return digest.digest()


def extend_block_hashes(
    hashes: list[bytes], token_ids: list[int], block_size: int, cache_salt: str | None
) -> None:
    """Append the hash of every full block that has none yet."""
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        parent = hashes[-1] if hashes else None
        extra = cache_salt or "" if start == 0 else ""
        hashes.append(hash_block(parent, token_ids[start : start + block_size], extra))


def short(block_hash: bytes) -> str:
    """A hash as events show it: 16 hex characters, a string that JavaScript can hold."""
    return block_hash.hex()[:16]
