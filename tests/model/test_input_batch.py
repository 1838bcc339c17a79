"""The flat batch: positions, slots, boundaries, and who is sampled."""

from __future__ import annotations

from minivllm.core.scheduler_output import CachedRequestData, NewRequestData, SchedulerOutput
from minivllm.sampling_params import SamplingParams
from minivllm.worker.input_batch import InputBatch, SampledRows


def new(name: str, tokens: list[int], blocks: list[int], computed: int = 0) -> NewRequestData:
    return NewRequestData(name, tokens, SamplingParams(), 0, [], blocks, computed)


def output(
    counts: dict[str, int],
    new_requests: list[NewRequestData] | None = None,
    cached: CachedRequestData | None = None,
    finished: list[str] | None = None,
) -> SchedulerOutput:
    return SchedulerOutput(
        1,
        new_requests or [],
        cached or CachedRequestData(),
        counts,
        sum(counts.values()),
        finished or [],
    )


def test_the_example_of_the_metadata_docstring() -> None:
    """Block size 4: A computes positions 0–5, B its position 8."""
    batch = InputBatch(4)
    step = output(
        {"A": 6, "B": 1},
        [new("A", [10, 11, 12, 13, 14, 15], [1, 2]), new("B", list(range(20, 29)), [5, 3, 7], 8)],
    )
    batch.update(step)
    flat = batch.build(step)
    assert flat.input_ids.tolist() == [10, 11, 12, 13, 14, 15, 28]
    assert flat.positions.tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert flat.query_start_loc.tolist() == [0, 6, 7]
    assert flat.seq_lens.tolist() == [6, 9]
    assert flat.block_table.tolist() == [[1, 2, 0], [5, 3, 7]]
    assert flat.slot_mapping.tolist() == [4, 5, 6, 7, 8, 9, 28]
    assert flat.sampled == [SampledRows("A", 5, []), SampledRows("B", 6, [])]


def test_a_chunk_in_the_middle_is_not_sampled_and_the_last_one_is() -> None:
    batch = InputBatch(4)
    first = output({"A": 4}, [new("A", list(range(6)), [9])])
    batch.update(first)
    assert batch.build(first).sampled == []
    cached = CachedRequestData(["A"], [[2]], [4])
    second = output({"A": 2}, cached=cached)
    batch.update(second)
    flat = batch.build(second)
    assert flat.sampled == [SampledRows("A", 1, [])]
    assert flat.slot_mapping.tolist() == [8, 9]
    assert flat.seq_lens.tolist() == [6]


def test_a_resumed_requests_table_is_replaced_not_extended() -> None:
    batch = InputBatch(4)
    batch.update(output({"A": 6}, [new("A", list(range(6)), [9, 2])]))
    batch.requests["A"].token_ids.append(77)
    step = output({"A": 7}, cached=CachedRequestData(["A"], [[5, 6]], [0], {"A"}))
    batch.update(step)
    flat = batch.build(step)
    assert flat.block_table.tolist() == [[5, 6]]
    assert flat.input_ids.tolist() == [0, 1, 2, 3, 4, 5, 77]
    assert flat.sampled == [SampledRows("A", 6, [])]


def test_the_schedulers_own_lists_are_copied() -> None:
    batch = InputBatch(4)
    tokens, blocks = [1, 2, 3], [4]
    batch.update(output({"A": 3}, [new("A", tokens, blocks)]))
    batch.requests["A"].token_ids.append(9)
    batch.requests["A"].block_ids.append(8)
    assert (tokens, blocks) == ([1, 2, 3], [4])


def test_drafts_run_behind_the_last_token_and_each_gives_a_row_to_sample() -> None:
    batch = InputBatch(4)
    batch.update(output({"A": 3, "B": 1}, [new("A", [10, 11, 12], [1]), new("B", [20], [2])]))
    batch.requests["A"].token_ids.append(13)
    step = output({"A": 3, "B": 1}, cached=CachedRequestData(["A", "B"], [[3], []], [3, 0]))
    step.scheduled_spec_decode_tokens = {"A": [90, 91]}
    batch.update(step)
    flat = batch.build(step)
    assert flat.input_ids.tolist() == [13, 90, 91, 20]
    assert flat.positions.tolist() == [3, 4, 5, 0]
    assert flat.slot_mapping.tolist() == [7, 12, 13, 8]
    assert flat.sampled == [SampledRows("A", 0, [90, 91]), SampledRows("B", 3, [])]
    assert batch.requests["A"].token_ids == [10, 11, 12, 13], "a draft is no token yet"
    row = batch.requests["A"].sample_row([90])
    assert (row.position, list(row.output_token_ids)) == (5, [13, 90])


def test_padding_is_computed_on_and_stored_nowhere() -> None:
    batch = InputBatch(4)
    step = output({"A": 2}, [new("A", [10, 11], [1])])
    step.num_padding_tokens = 3
    batch.update(step)
    flat = batch.build(step)
    assert flat.input_ids.tolist() == [10, 11, 0, 0, 0]
    assert flat.slot_mapping.tolist() == [4, 5, -1, -1, -1]
    assert flat.query_start_loc.tolist() == [0, 2], "nobody's rows belong to no request"
