"""Block hashes: an equal hash means an equal prefix, salt included."""

from __future__ import annotations

from minivllm.core.block_hash import extend_block_hashes, hash_block, short


def hashes(token_ids: list[int], size: int = 4, salt: str | None = None) -> list[bytes]:
    found: list[bytes] = []
    extend_block_hashes(found, token_ids, size, salt)
    return found


def test_only_full_blocks_have_a_hash() -> None:
    assert [len(hashes(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_equal_blocks_after_different_parents_differ() -> None:
    left, right = hashes([1, 1, 1, 1, 9, 9, 9, 9]), hashes([2, 2, 2, 2, 9, 9, 9, 9])
    assert left[1] != right[1]


def test_hash_depends_on_each_token_and_on_their_order() -> None:
    variants = [[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4 + 2**32]]
    assert len({hash_block(None, tokens) for tokens in variants}) == len(variants)


def test_salt_stands_in_the_first_block_alone() -> None:
    tokens = list(range(8))
    plain, salted = hashes(tokens), hashes(tokens, salt="a")
    assert salted[0] == hash_block(None, tokens[:4], "a") != plain[0]
    # The second block contains the salt through its parent only.
    assert salted[1] == hash_block(salted[0], tokens[4:]) != plain[1]
    assert hashes(tokens, salt="b")[0] != salted[0]


def test_growing_a_sequence_keeps_its_hashes() -> None:
    found = hashes(list(range(6)), salt="a")
    extend_block_hashes(found, list(range(13)), 4, "a")
    assert found == hashes(list(range(13)), salt="a") and len(found) == 3


def test_short_form_is_sixteen_hexadecimal_digits() -> None:
    text = short(hash_block(None, [1]))
    assert len(text) == 16 and int(text, 16) < 2**64
