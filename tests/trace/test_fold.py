"""The fold: what the viewers rely on beyond equality with the engine, and the invariants."""

from __future__ import annotations

import pytest

from minivllm.trace.events import Event, Reason, ReqEnqueue
from minivllm.trace.fold import apply, fold, new_state, to_json
from tests.core.builders import Engine, tokens
from tests.helpers import events_of


def engine() -> Engine:
    """r1 runs, r2 waits for blocks with r3 behind it, r4 has ended."""
    e = Engine(num_kv_blocks=8)
    e.add("done", tokens(9, 500), max_tokens=1)
    e.run()
    e.add("a", tokens(10), max_tokens=9)
    e.step()
    e.add("b", tokens(24, 700), max_tokens=9)
    e.add("c", tokens(4, 900), max_tokens=9)
    e.step()
    return e


def test_state_tells_why_each_request_waits() -> None:
    state = engine().state()
    head, behind = state.requests["r3"].wait, state.requests["r4"].wait
    assert head is not None and behind is not None
    assert (head.reason, head.need, head.have, head.behind) == ("no_free_blocks", 6, 4, None)
    assert (behind.reason, behind.behind) == ("no_free_blocks", "r3")


def test_reason_is_gone_when_the_request_runs() -> None:
    e = engine()
    e.core.abort_request("a", Reason.CLIENT)
    e.step()
    state = e.state()
    assert state.requests["r3"].wait is None and state.requests["r3"].status == "running"


def test_free_block_shows_what_it_last_held() -> None:
    state = engine().state()
    held = {i: b.held for i, b in enumerate(state.blocks) if b.held is not None}
    assert {(h.req, h.logical, h.filled) for h in held.values()} <= {
        ("r1", 0, 4),
        ("r1", 1, 4),
        ("r1", 2, 1),
    }
    assert all(state.blocks[i].ref == 0 for i in held), "taken anew, it is forgotten"


def test_finished_request_keeps_its_story() -> None:
    done = engine().state().requests["r1"]
    assert (done.status, done.finish_reason, done.finished_step) == ("finished", "length", 1)
    assert (done.arrived_step, done.first_token_step, len(done.tokens)) == (1, 1, 10)
    assert done.table == []


def test_folding_in_pieces_is_folding_at_once() -> None:
    events = events_of(engine().trace)
    whole = to_json(fold(events))
    for cut in range(0, len(events), 7):
        assert to_json(fold(events[cut:], fold(events[:cut]))) == whole


def test_states_share_nothing() -> None:
    one, other = new_state(), new_state()
    for event in events_of(engine().trace):
        apply(one, event)
    assert to_json(other) == to_json(new_state())


def test_event_that_must_name_a_request_and_does_not_is_named() -> None:
    event = Event(
        stream="engine0",
        seq=7,
        step=1,
        phase="input",
        kind="req.enqueue",
        t_ns=0,
        src=0,
        req=None,
        data=ReqEnqueue(position=0),
    )
    with pytest.raises(ValueError, match=r"event 7 \(req\.enqueue\) names no request"):
        apply(new_state(), event)
