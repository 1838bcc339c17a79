"""The trace's channel: nothing blocks its writer, and no gap is passed over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from minivllm.core.scheduler_output import StepTensors, TensorArray
from minivllm.trace import channel as channel_module
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.channel import Lines, TraceChannel, encode
from minivllm.trace.collector import TraceCollector
from minivllm.trace.events import RunIdle
from minivllm.trace.file import decode_event
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER
from tests.engine_process.helpers import until

Context = zmq.Context


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mv-") as path:
        yield path


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


class Ends:
    """Both ends of a channel, in one process, with a recorder before and a log behind."""

    def __init__(self, context: Any, directory: str, **options: Any) -> None:
        self.context, self.directory = context, directory
        self.log = TraceLog(HEADER)
        self.api = Recorder(self.log, "api")
        spool = Path(directory) / "arrays"
        store = ArtifactStore.of_process(None, spool, options.pop("limit", 2**20))
        self.channel = TraceChannel(context, directory, 0, store, redacted=False, **options)
        self.recorder = Recorder(self.channel)
        self.collector: TraceCollector | None = None

    def collect(self) -> None:
        spool = Path(self.directory) / "arrays"
        args = (self.context, self.directory, "engine0", self.log, self.api, spool)
        self.collector = TraceCollector(*args)

    def tell(self, steps: int) -> None:
        for _ in range(steps):
            self.recorder.step += 1
            self.recorder.emit(RunIdle, None)
            self.recorder.flush()

    def seqs(self) -> list[int]:
        lines = self.log.lines("engine0", 1, self.log.head_seq("engine0"))
        return [decode_event(line).seq for line in lines]

    def gaps(self) -> list[tuple[str, int, int]]:
        lines = self.log.lines("api", 1, self.log.head_seq("api"))
        told = [e.data for e in map(decode_event, lines) if e.kind == "trace.gap"]
        return [(gap.of_stream, gap.first, gap.last) for gap in told]


@contextmanager
def ends(context: Any, directory: str, **options: Any) -> Iterator[Ends]:
    both = Ends(context, directory, **options)
    try:
        yield both
    finally:
        both.channel.abandon()
        both.channel.close()
        if both.collector is not None:
            both.collector.close()


def test_all_of_it_arrives_in_order_and_the_end_waits_for_it(context: Any, directory: str) -> None:
    with ends(context, directory) as both:
        both.collect()
        both.tell(50)
        both.recorder.close()  # returns once the collector has it all
        assert both.seqs() == list(range(1, both.recorder.seq + 1))
        assert both.gaps() == []


def test_a_collector_that_comes_late_asks_for_what_it_has_missed(
    context: Any, directory: str
) -> None:
    with ends(context, directory) as both:
        both.tell(300)  # nobody listens, and nothing blocks
        both.collect()
        until(lambda: len(both.seqs()) == both.recorder.seq)  # told by the channel's head alone
        both.tell(20)
        both.recorder.close()
        assert both.seqs() == list(range(1, both.recorder.seq + 1)) and both.gaps() == []


def test_what_is_lost_on_the_way_is_asked_for(
    context: Any, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some publications never arrive, as where a socket's buffer is full."""
    with ends(context, directory) as both:
        both.collect()
        both.tell(1)
        until(both.seqs)
        real, count = both.channel._pub, iter(range(10_000))

        class Lossy:
            def send(self, message: bytes) -> None:
                if next(count) % 3 == 0:
                    real.send(message)

            def close(self, linger: int) -> None:
                real.close(linger)

        monkeypatch.setattr(both.channel, "_pub", Lossy())
        both.tell(100)
        both.recorder.close()
        assert both.seqs() == list(range(1, both.recorder.seq + 1)) and both.gaps() == []


def test_a_long_gap_is_filled_piece_by_piece(
    context: Any, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "AT_ONCE_BYTES", 2000)
    with ends(context, directory) as both:
        both.tell(200)
        both.collect()
        both.recorder.close()
        assert both.seqs() == list(range(1, both.recorder.seq + 1)) and both.gaps() == []


def test_what_the_buffer_has_no_more_is_told_as_a_gap_and_breaks_the_stream_off(
    context: Any, directory: str
) -> None:
    with ends(context, directory, replay_bytes=2000) as both:
        both.tell(200)
        both.collect()
        until(both.gaps)
        both.tell(5)
        both.recorder.close()
        until(lambda: len(both.gaps()) == 2)
        (_, first, lost), (stream, after, last) = both.gaps()
        assert (first, stream, after, last) == (1, "engine0", lost + 1, both.recorder.seq)
        assert both.seqs() == []  # a later line means nothing without the earlier


def test_of_a_writer_that_was_killed_the_missing_end_is_told(context: Any, directory: str) -> None:
    with ends(context, directory) as both:
        both.collect()
        both.tell(3)
        until(lambda: len(both.seqs()) == both.recorder.seq)
        pub = context.socket(zmq.PUB)  # the last that comes stands behind two that never will
        pub.connect(f"ipc://{directory}/trace")
        both.channel.abandon()
        late = encode(Lines("engine0", both.recorder.seq + 3, 9, [b"{}"]))
        assert both.collector is not None
        until(lambda: pub.send(late) or both.collector._head > both.recorder.seq)
        both.collector.close()
        assert both.gaps() == [("engine0", both.recorder.seq + 1, both.recorder.seq + 3)]
        assert both.seqs()[-1] == both.recorder.seq


def test_nobody_at_the_other_end_delays_the_end_only_so_long(
    context: Any, directory: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(channel_module, "LINGER_S", 0.01)
    with ends(context, directory) as both:
        both.tell(1)
        both.recorder.close()
        assert caplog.messages == ["nobody has collected the end of the trace"]


def arrays(number: int, size: int = 1000) -> StepTensors:
    data = bytes([number]) * 4 * size
    return StepTensors(["r1"], [TensorArray("k", "F32", [size], data)], [])


def test_arrays_move_from_the_spool_into_the_logs_memory(context: Any, directory: str) -> None:
    with ends(context, directory) as both:
        both.collect()
        both.tell(1)
        both.recorder.keep_tensors(arrays(7))
        both.recorder.close()
        artifact = both.log.artifacts.read("engine0", 1)
        assert bytes(artifact.raw("k")) == bytes([7]) * 4000
        assert os.listdir(f"{directory}/arrays") == []


def test_a_spool_that_nobody_empties_keeps_the_newest(context: Any, directory: str) -> None:
    with ends(context, directory, limit=10_000) as both:
        for number in range(5):
            both.tell(1)
            both.recorder.keep_tensors(arrays(number))
        both.recorder.flush()
        assert sorted(os.listdir(f"{directory}/arrays")) == [
            "step-000004.safetensors",
            "step-000005.safetensors",
        ]


def test_a_name_that_no_artifact_has_is_not_opened(tmp_path: Path) -> None:
    store = ArtifactStore.of_process(None, tmp_path, 10_000)
    told = store.put("engine0", 1, 1, arrays(1))
    bad = msgspec.structs.replace(told, file="../../etc/passwd")
    with pytest.raises(FileNotFoundError, match="no name of an artifact"):
        TraceLog(HEADER).artifacts.take_over("engine0", 1, 1, bad, tmp_path)  # type: ignore[arg-type]
