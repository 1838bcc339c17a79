"""What the verbs that ask answer: for readers, and the same as data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from minivllm.terminal.runs import RecordedRun, open_run
from minivllm.terminal.verbs import PINNABLE, Reply, Session, VerbError
from minivllm.trace.events import Candidate, ProcessorEffect


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = Session(open_run("tiny-pressure", {}))
    session.execute("next 99")
    yield session
    session.close()


def at(session: Session, step: int, line: str) -> Reply:
    session.execute(f"goto {step}")
    return session.execute(line)


def text(reply: Reply) -> str:
    return "\n".join(line.plain for line in reply.lines)


def test_requests_in_numbers_and_by_status(session: Session) -> None:
    reply = at(session, 8, "requests")
    row = next(line.plain.split() for line in reply.lines if line.plain.startswith("r4"))
    assert row == ["r4", "preempted", "8", "3", "0/11", "0", "1", "4", "5"]
    assert list(session.execute("requests running").data) == ["r1", "r3"]
    assert reply.data["r4"]["num_preemptions"] == 1
    with pytest.raises(VerbError, match="requests idle: no request at step 8; there are: finished"):
        session.execute("requests idle")


def test_the_queue_says_why_each_waits(session: Session) -> None:
    reply = at(session, 9, "queue")
    assert "needs 3 blocks, 2 are free" in text(reply) and "behind r4 (fcfs)" in text(reply)
    assert [row["req"] for row in reply.data] == ["r4", "r5"]
    assert reply.data[0]["wait"]["need"] == 3


def test_free_is_the_order_of_eviction_with_what_is_lost(session: Session) -> None:
    lines = text(at(session, 8, "free")).splitlines()
    assert "block   15◆ cached, tokens 5–8 of r4: ' three, four,'" in lines[0]
    assert "block   14◆ cached, tokens 1–4 of r4: 'One, two,'" in lines[1]
    assert text(at(session, 7, "free")) == "no block is free"


def test_blocks_and_a_range_of_them(session: Session) -> None:
    reply = at(session, 8, "blocks 6-8")
    assert reply.lines[0].plain.split() == ["6+r3", "7", "r3◆", "8", "r3◆"]
    assert reply.data["6"]["owners"] == ["r3"] and reply.data["6"]["ref"] == 1
    assert len(session.execute("blocks").data) == 15
    for bad in ("blocks 16", "blocks 8-6", "blocks x"):
        with pytest.raises(VerbError, match="takes one number"):
            session.execute(bad)


def test_block_is_told_from_its_first_owner_to_its_last(session: Session) -> None:
    reply = at(session, 8, "block 6")
    words = [row["words"] for row in reply.data["life"]]
    assert words[0].startswith("taken by r2") and "evicted for r4" in words[3]
    assert "In use by r3" in reply.data["now"]


def test_tables_mark_what_is_new_and_what_is_shared(session: Session) -> None:
    lines = text(at(session, 2, "tables")).splitlines()
    assert lines[1].split() == ["r1", "1↺×2", "2↺×2", "3", "4+", "5+"]
    assert lines[2].split() == ["r2", "1↺×2", "2↺×2", "6+"]


def test_batch_says_who_asked_and_what_limited_whom(session: Session) -> None:
    reply = at(session, 4, "batch")
    rows = [line.plain.split() for line in reply.lines]
    assert ["r3", "12", "10", "tokens", "11–20", "chunk", "no_budget"] in rows
    assert ["r4", "8", "0", "no_budget"] in rows
    assert rows[-1][:6] == ["12", "of", "12", "tokens", "are", "used"]
    assert reply.data["used"] == 12


def test_tokens_are_the_stream_of_each_with_what_is_new(session: Session) -> None:
    reply = at(session, 8, "tokens r3")
    assert reply.data["r3"]["new"] == [" decided"]
    assert text(reply).endswith(", the robot decided")


def test_diff_of_two_steps_tells_each_thing_that_is_other(session: Session) -> None:
    reply = at(session, 8, "diff 7 8")
    told = text(reply).splitlines()
    assert "waiting    nobody → r4" in told
    assert "r4         computed 10 → 0" in told
    assert "block 6    held by r4 → r3" in told
    assert session.execute("diff 7").data == reply.data  # from there to here
    assert text(session.execute("diff 8 8")) == "nothing is different"
    for bad in ("diff", "diff 1 2 3", "diff 7 18"):
        with pytest.raises(VerbError):
            session.execute(bad)


def test_topk_of_given_tokens_says_that_nothing_was_drawn(session: Session) -> None:
    reply = at(session, 8, "topk r3")
    assert "r3 drew ' decided' (4041)" in text(reply)
    assert "nothing was drawn; --with-model lets a model draw" in text(reply)
    with pytest.raises(VerbError, match="topk r9: no such request at step 8; there are: r1, r2"):
        session.execute("topk r9")


@pytest.mark.parametrize(
    ("step", "line", "says", "data"),
    [
        (0, "requests", "no request has come by step 0", {}),
        (0, "requests running", "no request has come by step 0", {}),
        (1, "requests finished", "no request is finished at step 1; there are: running", {}),
        (0, "tokens", "no request has come by step 0", {}),
        (0, "topk", "no token was drawn in step 0", []),
        (8, "topk r4", "r4 got no token in step 8; r1, r3 did", []),
        (0, "batch", "no budget was handed out in step 0", {}),
        (0, "tensors", "no token ran in step 0: it has no batch", {}),
        (0, "queue", "nobody", []),
        (0, "events req", "no such event in step 0; there are: run.config", []),
    ],
)
def test_where_there_is_nothing_the_answer_is_empty_and_no_failure(
    session: Session, step: int, line: str, says: str, data: object
) -> None:
    reply = at(session, step, line)
    assert says in text(reply) and reply.data == data


def test_topk_shows_the_candidates_before_and_after_the_processors(session: Session) -> None:
    steps = session.history.steps
    index = next(i for i, event in enumerate(steps[8]) if event.kind == "sample")
    plain = steps[8][index]
    row = msgspec.structs.replace(
        plain.data.rows[0],
        logprob=-0.5,
        rank=1,
        before=[
            Candidate(token_id=198, text="\n", logprob=-0.5),
            Candidate(token_id=7, text="日本", logprob=-1.25),
        ],
        after=[Candidate(token_id=198, text="\n", probability=0.75)],
        processors=[
            ProcessorEffect(name="top_k", masked=True, count=1, token_ids=[7], texts=["日本"])
        ],
    )
    data = msgspec.structs.replace(plain.data, rows=[row])
    steps[8][index] = msgspec.structs.replace(plain, data=data)
    session._view = None
    try:
        told = text(at(session, 8, "topk r1"))
    finally:
        steps[8][index] = plain
        session._view = None
    assert "logprob -0.500, rank 1" in told and "top_k:" in told
    assert "◉  1 '⏎'" in told and "0.750 " + "█" * 15 in told
    assert "   2 '日本'" in told


@pytest.mark.parametrize("verb", PINNABLE)
def test_every_answer_is_the_same_at_a_place_however_it_was_reached(
    session: Session, verb: str
) -> None:
    argument = {"request": "r3", "block": "6"}.get(verb, "")
    line = f"{verb} {argument}"
    session.execute("goto 7")
    session.execute("next")
    forward = session.execute(line)
    session.execute("goto 12")
    session.execute("back 4")
    back = session.execute(line)
    assert text(forward) == text(back) and forward.data == back.data
    assert msgspec.json.encode(forward.data)  # JSON takes it


def test_answers_fit_the_width(session: Session) -> None:
    session.execute("goto 8")
    for width in (40, 80, 200):
        session.width = width
        for verb in ("requests", "queue", "tokens", "blocks", "tables", "tensors", "batch"):
            wide = max(line.cell_len for line in session.execute(verb).lines)
            assert wide <= width, (verb, width)
    session.width = 80


def test_recording_answers_with_the_hops_outside_the_engine(tmp_path: Path) -> None:
    session = Session(open_run("tiny-pressure.trace.jsonl", {}))
    assert isinstance(session.run, RecordedRun)
    session.execute("goto 8")
    assert "the life" in session.execute("request r4").title
