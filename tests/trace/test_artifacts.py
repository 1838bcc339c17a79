"""A step's arrays on disk and in memory: read without torch, refused when they are not whole."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.scheduler_output import StepTensors, TensorArray
from minivllm.errors import ArtifactError, MissingArtifactError
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.artifacts import (
    Artifact,
    artifact_events,
    encode,
    folder_of,
    open_artifact,
)
from minivllm.trace.events import ExecTensors, Reason, TraceLeftOut
from minivllm.trace.file import read_trace
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, Engine
from tests.core.tensors import TensorExecutor, floats, made_up
from tests.helpers import events_of


def record(path: Path | None, max_tokens: int = 4, **options: Any) -> Engine:
    trace = Recorder(TraceLog(HEADER, str(path) if path else None, **options))
    e = Engine(executor=TensorExecutor, trace=trace, level="tensors")
    e.add("a", 6, max_tokens=max_tokens)
    e.run()
    trace.flush()
    return e


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    record(path)
    return path


def opened(path: Path, step: int = 2) -> Artifact:
    return open_artifact(path, artifact_events(read_trace(path).events)[step])


def put(store: ArtifactStore, step: int, tensors: StepTensors | None = None) -> ExecTensors:
    told = store.put("engine0", 1, step, tensors or made_up(["r1"]))
    assert isinstance(told, ExecTensors)
    return told


def files(path: Path) -> list[str]:
    folder = folder_of(path)
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


# --- reading -------------------------------------------------------------------------------------


def test_each_captured_step_has_a_file_that_its_event_names(path: Path) -> None:
    events = artifact_events(read_trace(path).events)
    assert [event.data.file for event in events.values()] == files(path)
    assert files(path)[0] == "step-000001.safetensors" and list(events) == [1, 2, 3, 4]


def test_safetensors_own_reader_reads_the_file(path: Path) -> None:
    artifact = opened(path)
    read = safetensors.numpy.load_file(artifact.name)
    assert set(read) == set(artifact.arrays)
    for name, expected in read.items():
        part = artifact.part(name)
        assert part.shape == list(expected.shape)
        assert part.values() == expected.flatten().tolist()


def test_each_array_begins_where_its_numbers_are_aligned() -> None:
    odd = [floats("a", [1], [1], "F16"), floats("b", [1], [1], "I32"), floats("c", [1], [1], "I64")]
    raw = encode(odd, {})
    assert {name: x.tolist() for name, x in safetensors.numpy.load(raw).items()} == {
        "a": [1],
        "b": [1],
        "c": [1],
    }
    length = int.from_bytes(raw[:8], "little")
    for name, info in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            width = {"F16": 2, "I32": 4, "I64": 8}[info["dtype"]]
            assert (8 + length + info["data_offsets"][0]) % width == 0


def test_part_is_what_numpy_indexes(path: Path) -> None:
    artifact = opened(path)
    whole = safetensors.numpy.load_file(artifact.name)["attention.r1"]
    for at in [(), (1,), (-1, 2), (0, 1, 0), (1, 2, 0, 3)]:
        part = artifact.part("attention.r1", at)
        assert part.nested() == whole[at].tolist()
        floats32 = np.frombuffer(part.as_float32(), "<f4").reshape(part.shape)
        assert np.array_equal(floats32, whole[at].astype(np.float32))


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=40))
def test_float16_comes_back_as_it_was(values: list[float]) -> None:
    store = ArtifactStore()
    put(store, 1, StepTensors(["r1"], [floats("x", [len(values)], values, "F16")], []))
    assert store.read("engine0", 1).part("x").values() == values


def test_bfloat16_is_read_without_torch() -> None:
    halves = [0x3F80, 0xC000, 0x7F80, 0x0000]  # 1, -2, infinity, 0
    data = np.array(halves, "<u2").tobytes()
    store = ArtifactStore()
    put(store, 1, StepTensors([], [TensorArray("x", "BF16", [4], data)], []))
    part = store.read("engine0", 1).part("x")
    assert part.values() == [1.0, -2.0, math.inf, 0.0]
    assert part.nested() == [1.0, -2.0, None, 0.0]
    assert np.frombuffer(part.as_float32(), "<f4").tolist() == [1.0, -2.0, math.inf, 0.0]


def test_large_array_is_read_whole() -> None:
    values = [float(i % 1000) for i in range(200_001)]
    store = ArtifactStore()
    put(store, 1, StepTensors([], [floats("x", [200_001], values)], []))
    assert store.read("engine0", 1).part("x").values() == values


@pytest.mark.parametrize(
    ("name", "at", "error", "says"),
    [
        ("attention.r9", (), MissingArtifactError, "no array 'attention.r9'; it has seq_lens"),
        ("attention.r1", (2,), ArtifactError, "axis 0: got 2; allowed: 0 to 1"),
        ("attention.r1", (0, -4), ArtifactError, "axis 1: got -4; allowed: 0 to 2"),
        ("seq_lens", (0, 0), ArtifactError, "got 2 indices"),
    ],
)
def test_what_is_not_there_is_a_named_error(
    path: Path, name: str, at: tuple[int, ...], error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        opened(path).part(name, at)


def test_missing_file_is_a_named_error(path: Path) -> None:
    (folder_of(path) / "step-000002.safetensors").unlink()
    with pytest.raises(MissingArtifactError, match=r"step-000002\.safetensors is not there"):
        opened(path)


def test_cut_file_is_a_named_error(path: Path) -> None:
    file = folder_of(path) / "step-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is cut"):
        opened(path)


@pytest.mark.parametrize("at", [0, 20, -1])
def test_altered_file_is_a_named_error(path: Path, at: int) -> None:
    file = folder_of(path) / "step-000002.safetensors"
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ArtifactError, match="altered"):
        opened(path)


def test_of_a_file_that_was_checked_only_what_is_asked_for_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(path)
    read = []
    pread = os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        read.append(size)
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", counted)
    artifact = opened(path)
    header = sum(read)
    artifact.part("attention.r1", (1, 2, 0))  # 4 keys in float16
    assert sum(read) == header + 8 < Path(artifact.name).stat().st_size


def test_file_that_is_changed_after_it_was_checked_is_a_named_error(path: Path) -> None:
    artifact = opened(path)
    file = Path(artifact.name)
    raw = file.read_bytes()
    file.write_bytes(raw[:-20])
    with pytest.raises(ArtifactError, match="was cut while it was read"):
        [artifact.part(name) for name in artifact.arrays]
    file.unlink()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="its checksum is another one"):
        opened(path)


def test_file_with_more_than_was_written_is_a_named_error(path: Path) -> None:
    with (folder_of(path) / "step-000002.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ArtifactError, match="altered"):
        opened(path)


@pytest.mark.parametrize(
    "name",
    ["../run.jsonl", "/etc/passwd", "step-000001.safetensors/..", "step-1.pt", "", "a\0b"],
)
def test_trace_cannot_name_another_file(path: Path, name: str) -> None:
    event = artifact_events(read_trace(path).events)[2]
    data = msgspec.structs.replace(event.data, file=name)
    with pytest.raises(ArtifactError, match="altered"):
        open_artifact(path, msgspec.structs.replace(event, data=data))


def test_event_that_tells_of_other_arrays_is_a_named_error(path: Path) -> None:
    event = artifact_events(read_trace(path).events)[2]
    first, *rest = event.data.arrays
    for info in (
        msgspec.structs.replace(first, shape=[7]),
        msgspec.structs.replace(first, name="x"),
        msgspec.structs.replace(first, dtype="X"),
    ):
        data = msgspec.structs.replace(event.data, arrays=[info, *rest])
        with pytest.raises(ArtifactError, match="no safetensors file with the arrays"):
            open_artifact(path, msgspec.structs.replace(event, data=data))


def test_reading_needs_neither_numpy_nor_torch(path: Path, python_without: Any) -> None:
    code = f"""
from minivllm.trace.file import read_trace
from minivllm.trace.artifacts import artifact_events, open_artifact
event = artifact_events(read_trace({str(path)!r}).events)[2]
print(open_artifact({str(path)!r}, event).part("attention.r1", (1, 2)).shape)
"""
    done = python_without(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 4]"


# --- keeping -------------------------------------------------------------------------------------


def test_run_without_a_file_keeps_the_newest_in_memory() -> None:
    e = record(None, max_tokens=6)
    store = e.trace.log.artifacts
    assert list(store.of_stream("engine0")) == [1, 2, 3, 4, 5, 6]
    assert store.read("engine0", 6).part("attention.r1", (1, 2, 0)).size == 4
    small = ArtifactStore(limit_bytes=2 * put(ArtifactStore(), 1).bytes + 10)
    for step in range(1, 6):
        put(small, step)
    assert list(small.of_stream("engine0")) == [4, 5]
    with pytest.raises(MissingArtifactError, match=r"no arrays of step 3; .* step 4, 5"):
        small.read("engine0", 3)


def test_memory_keeps_so_many_steps_and_no_more() -> None:
    store = ArtifactStore()
    for step in range(1, 71):
        put(store, step)
    assert list(store.of_stream("engine0")) == list(range(7, 71))


def test_run_that_has_all_the_bytes_it_may_have_ends_its_artifacts_and_goes_on(
    tmp_path: Path,
) -> None:
    size = put(ArtifactStore(), 1).bytes
    e = record(tmp_path / "run.jsonl", max_tokens=40, tensors_limit=size)
    (left_out,) = e.events("trace.left_out")
    assert left_out.data.reason is Reason.TENSORS_FULL
    assert left_out.data.need > left_out.data.limit == 16 * size
    assert len(files(tmp_path / "run.jsonl")) == len(e.events("exec.tensors")) < 17
    assert e.ended("a") == "length" and len(e.said("a")) == 40


def test_full_disk_ends_the_artifacts_and_not_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "000003" in self.name:
            write(self, data[:10])
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "run.jsonl"
    e = record(path, max_tokens=6)
    (left_out,) = e.events("trace.left_out")
    assert left_out.data.reason is Reason.NOT_WRITTEN and left_out.step == 3
    assert left_out.data.message == "No space left on device" in caplog.text
    assert files(path) == ["step-000001.safetensors", "step-000002.safetensors"]
    assert len(e.said("a")) == 6 and read_trace(path).last_step == 6


def test_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl.tensors").write_text("in the way")
    e = record(tmp_path / "run.jsonl")
    (left_out,) = e.events("trace.left_out")
    assert left_out.data.reason is Reason.NOT_WRITTEN and len(e.said("a")) == 4


def test_new_run_of_the_same_name_removes_the_old_one_s_arrays_and_nothing_else(
    path: Path,
) -> None:
    (folder_of(path) / "notes.txt").write_text("mine")
    (folder_of(path) / "step-000009.safetensors.part").write_text("torn")
    record(path, max_tokens=2)
    assert files(path) == ["notes.txt", "step-000001.safetensors", "step-000002.safetensors"]


def test_two_engines_of_a_run_do_not_share_a_name(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "run.jsonl"))
    names = [
        told.file
        for stream, epoch in (("engine0", 1), ("engine0", 2), ("engine1", 1))
        if isinstance(told := store.put(stream, epoch, 1, made_up(["r1"])), ExecTensors)
    ]
    assert names == [
        "step-000001.safetensors",
        "engine0-2-step-000001.safetensors",
        "engine1-1-step-000001.safetensors",
    ]
    assert files(tmp_path / "run.jsonl") == sorted(names)


# --- retention -----------------------------------------------------------------------------------


def test_retention_deletes_the_arrays_of_dropped_steps(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    e = record(path, max_tokens=23, steps=4)
    e.trace.close()
    trace = read_trace(path)
    told = artifact_events(trace.events)
    assert trace.first_step > 10 and next(iter(told)) == trace.first_step
    assert files(path) == [event.data.file for event in told.values()]
    for event in told.values():
        open_artifact(path, event)


def test_retention_in_memory_deletes_them_too() -> None:
    e = record(None, max_tokens=23, steps=4)
    first = next(iter(artifact_events(events_kept(e))))
    assert list(e.trace.log.artifacts.of_stream("engine0")) == list(range(first, 24))


def events_kept(e: Engine) -> list[Any]:
    return [event for event in events_of(e.trace) if event.kind == "exec.tensors"]


def test_trace_file_that_ends_keeps_its_arrays_and_gets_no_more(tmp_path: Path) -> None:
    trace = Recorder(TraceLog(HEADER, str(tmp_path / "run.jsonl"), steps=4))
    e = Engine(executor=TensorExecutor, trace=trace, level="tensors")
    e.add("a", 6, max_tokens=23)
    for _ in range(3):
        e.step()

    class Full:
        path = "run.jsonl"

        def append(self, _: list[bytes]) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    trace.log._file = Full()  # type: ignore[assignment]
    e.run()
    assert files(tmp_path / "run.jsonl") == [f"step-00000{n}.safetensors" for n in (1, 2, 3, 4)]
    assert len(e.said("a")) == 23


def test_room_that_retention_frees_is_used_again(tmp_path: Path) -> None:
    size = put(ArtifactStore(), 1).bytes
    e = record(tmp_path / "run.jsonl", max_tokens=40, steps=3, tensors_limit=size + 100)
    assert e.events("trace.left_out") == []


def test_left_out_is_what_a_full_store_answers(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "run.jsonl"), limit_bytes=1)
    assert isinstance(store.put("engine0", 1, 1, made_up(["r1"])), TraceLeftOut)
    assert not store.is_open
