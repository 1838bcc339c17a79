"""What a token adds to the text, in whole characters.

A token is a piece of bytes, and a character of several bytes may be split over two or three of
them. Shown one by one they are all "�". So a character belongs to the token that completes it, and
those before it add nothing: joined, the pieces are the text. Counterpart in vLLM: none (its logs
show whole outputs); the idea is that of its incremental detokeniser.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

CONTEXT = 3
"""Tokens before one that can hold its character's beginning: UTF-8 takes four bytes at most."""

TokenText = Callable[[int, Sequence[int]], str]
"""(token id, the ids before it, of which the last :data:`CONTEXT` count) → what it adds."""

_decoder = codecs.getincrementaldecoder("utf-8")


def text_after(token_bytes: Callable[[int], bytes], token_id: int, before: Sequence[int]) -> str:
    """The characters that ``token_id`` completes; bytes that can be none are "�"."""
    decoder = _decoder("replace")
    for earlier in before[-CONTEXT:]:
        decoder.decode(token_bytes(earlier))  # what it leaves unfinished stays in the decoder
    return decoder.decode(token_bytes(token_id))


def texts_of(text: TokenText, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to those before it."""
    return [
        text(token_id, token_ids[max(i - CONTEXT, 0) : i]) for i, token_id in enumerate(token_ids)
    ]
