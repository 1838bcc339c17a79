"""Static batching: nobody joins a batch that runs, and who ends early leaves a padded row."""

from __future__ import annotations

from minivllm.trace.events import Reason
from minivllm.trace.fold import fold
from minivllm.trace.story import story
from tests.core.builders import Engine, Scheduling
from tests.helpers import events_of


def test_only_an_empty_batch_is_filled() -> None:
    s = Scheduling(batching="static")
    s.add(1, 4, max_tokens=2)
    assert s.step() == {"r1": 4}
    s.add(2, 4)
    assert s.step() == {"r1": 1}, "r2 fits, but the batch has begun"
    skip = s.told("sched.skip")[0]
    assert (skip.req, skip.data.reason, skip.data.need) == ("r2", Reason.STATIC_BATCH, 1)
    assert s.step() == {"r2": 4}, "the batch has ended"


def test_whoever_fits_joins_the_batch_while_it_is_formed() -> None:
    s = Scheduling(batching="static", max_num_seqs=2)
    for i in (1, 2, 3):
        s.add(i, 4)
    assert s.step() == {"r1": 4, "r2": 4}
    assert s.told("sched.skip")[0].data.reason == Reason.MAX_NUM_SEQS


def test_ended_rows_stay_as_padding_until_the_last_one_ends() -> None:
    engine = Engine(batching="static")
    for number, max_tokens in enumerate((1, 2, 4), start=1):
        engine.add(f"q{number}", 4, max_tokens=max_tokens)
    engine.add("later", 4, max_tokens=1)
    engine.run()
    batches = [e.data for e in engine.events("batch.compose")]
    assert [(b.tokens, b.padding) for b in batches] == [(16, 0), (2, 2), (1, 3), (1, 3)]


def test_a_new_batch_has_no_padding_of_the_old_one() -> None:
    engine = Engine(batching="static", max_num_seqs=2)
    for number in range(4):
        engine.add(f"q{number}", 4, max_tokens=1 + number % 2)
    engine.run()
    assert [e.data.padding for e in engine.events("batch.compose")] == [0, 1, 0, 1]


def test_continuous_batching_never_pads() -> None:
    engine = Engine()
    for number in range(4):
        engine.add(f"q{number}", 4, max_tokens=1 + number)
    engine.run()
    assert {e.data.padding for e in engine.events("batch.compose")} == {0}


def test_the_sentence_says_who_must_end_first() -> None:
    engine = Engine(batching="static")
    engine.add("q1", 4, max_tokens=3)
    engine.step()
    before = fold(events_of(engine.trace))
    engine.add("q2", 4)
    engine.step()
    events = [e for e in events_of(engine.trace) if e.step == 2]
    assert "r2 waits: batching is static, and 1 request of the batch still runs." in (
        story(before, events).headline
    )
