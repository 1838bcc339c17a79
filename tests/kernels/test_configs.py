"""How many parts a sequence is split into."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minivllm.attention.kernels.configs import (
    MAX_SPLITS,
    PROGRAMS_PER_SM,
    TILES_PER_SPLIT,
    num_splits,
)


@given(
    programs=st.integers(1, 10_000), length=st.integers(1, 200_000), sms=st.sampled_from([28, 132])
)
def test_splits_fill_the_gpu_and_leave_each_part_some_tiles(
    programs: int, length: int, sms: int
) -> None:
    splits = num_splits(programs, length, 64, sms)
    assert splits & (splits - 1) == 0 and 1 <= splits <= MAX_SPLITS
    if splits > 1:
        assert programs * splits // 2 < PROGRAMS_PER_SM * sms, "half of them would have filled it"
        assert length // 64 // splits >= TILES_PER_SPLIT


def test_one_long_sequence_is_split_and_a_full_batch_is_not() -> None:
    assert num_splits(8, 8192, 64, 108) == 32
    assert num_splits(64 * 8, 8192, 64, 108) == 1
    assert num_splits(8, 256, 64, 108) == 1
