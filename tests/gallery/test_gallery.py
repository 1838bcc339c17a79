"""The recordings that come along: whole, true, made by what the index says, and small."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from minivllm.cli import gallery as commands
from minivllm.errors import ConfigError, TraceError
from minivllm.trace import gallery as index
from minivllm.trace import lens
from minivllm.trace.artifacts import folder_of, open_artifact
from minivllm.trace.events import Event
from minivllm.trace.file import read_trace
from minivllm.trace.gallery import Entry, entries, find_recording, gallery
from minivllm.trace.invariants import TraceChecker
from tests.conftest import ROOT
from viz.runs import Catalogue

MOST_BYTES = 1_500_000
NAMES = list(entries())


def test_every_file_stands_in_the_index_and_every_entry_has_its_file() -> None:
    files = {p for p in index.DIRECTORY.iterdir() if ".trace.jsonl" in p.name and p.is_file()}
    assert {entry.path for entry in entries().values()} == files
    assert list(gallery()) == NAMES
    arrays = set(index.DIRECTORY.glob("*.tensors/*"))
    assert {path.parent for path in arrays} == {folder_of(gallery()["attention"])}
    assert sum(path.stat().st_size for path in files | arrays) < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_recording_is_what_the_engine_does(name: str) -> None:
    """One with given tokens is made anew; of one with a model, all but the model runs again."""
    problem, _ = commands.held(entries()[name], with_model=False)
    assert not problem


@pytest.mark.model
@pytest.mark.parametrize("name", ["one-life", "two-engines", "speculation", "attention"])
def test_recording_is_what_its_command_records(name: str) -> None:
    """With the model, where decisions hang on what it says, or on the way there. (``minivllm
    gallery check --with-model`` makes all anew; ``tiny-pressure`` has its test in tests/engine.)"""
    problem, _ = commands.held(entries()[name], with_model=True)
    assert not problem


@pytest.mark.parametrize("name", NAMES)
def test_every_invariant_holds_in_it(name: str) -> None:
    for life in read_trace(gallery()[name]).lives().values():
        checker = TraceChecker()
        assert not [breach for event in life.events for breach in checker.take(event)]


@pytest.mark.parametrize("name", NAMES)
def test_first_place_and_neighbour_are_there(name: str) -> None:
    entry = entries()[name]
    step, _, rest = entry.first.removeprefix("step/").partition("/")
    assert 1 <= int(step.partition("?")[0]) <= read_trace(entry.path).last_step
    assert not rest or rest.startswith("req/r")
    if entry.beside:
        assert entries()[entry.beside].beside == name


def test_what_the_index_promises_is_in_the_recordings() -> None:
    """The numbers in its sentences."""

    def kinds(name: str) -> list[str]:
        return [event.kind for event in read_trace(gallery()[name]).events]

    assert kinds("thrash").count("req.preempt") == 8 and "req.preempt" not in kinds("roomy")
    lost = [
        event.data.tokens_lost
        for event in read_trace(gallery()["thrash"]).events
        if event.kind == "req.preempt"
    ]
    assert sum(lost) == 355
    steps = {name: read_trace(path).last_step for name, path in gallery().items()}
    assert (steps["thrash"], steps["roomy"]) == (133, 75)
    assert (steps["speculation"], steps["no-speculation"]) == (16, 24)
    assert steps["one-life"] == 16
    accepted = [
        event.data.n
        for event in read_trace(gallery()["speculation"]).steps[4]
        if event.kind == "spec.accept"
    ]
    assert sum(accepted) == 9
    whole, pieces = (
        [
            e.data.n
            for e in read_trace(gallery()[n]).events
            if e.kind == "sched.grant" and e.req == "r5"
        ]
        for n in ("whole-prefill", "chunked-prefill")
    )
    assert whole[0] == 600 and pieces[:10] == [64] * 9 + [24]
    routes = [
        e.data.why for e in read_trace(gallery()["two-engines"]).events if e.kind == "route.pick"
    ]
    assert len(routes) == 6 and "cached_prefix" in routes[3:] and "cached_prefix" not in routes[:3]
    front = kinds("one-life")
    assert {"http.request", "ipc.send", "http.first_byte", "http.chunk", "http.done"} <= set(front)


def test_recording_that_the_engine_would_no_longer_make_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entries()["thrash"]
    raw = gzip.decompress(entry.path.read_bytes())
    altered = raw.replace(b'"req":"r3"', b'"req":"r9"').replace(b'"r3"', b'"r9"')
    (tmp_path / "thrash.trace.jsonl.gz").write_bytes(gzip.compress(altered))
    (tmp_path / "index.toml").write_bytes((index.DIRECTORY / "index.toml").read_bytes())
    monkeypatch.setattr(index, "DIRECTORY", tmp_path)
    problem, _ = commands.held(entries()["thrash"], with_model=False)
    assert problem.startswith("engine0: recorded ") and "r9" in problem
    assert (
        "is not there: minivllm gallery make roomy" in commands.held(entries()["roomy"], False)[0]
    )


def captured(path: Path) -> dict[int, Event]:
    return {e.step: e for e in read_trace(path).events if e.kind == "exec.tensors"}


def test_lens_has_the_model_s_weights_of_two_steps_to_show() -> None:
    """And of a hit: r2's three tokens read eight that r1 had computed."""
    path = gallery()["attention"]
    steps = captured(path)
    assert list(steps) == [2, 12]
    artifact = open_artifact(path, steps[2])
    assert lens.shape(artifact, "r2") == (30, 9, 3, 11)
    weights = lens.row(artifact, "r2", -1)
    assert sum(weights) == pytest.approx(1, abs=1e-2) and sum(weights[:8]) > 0.3


def test_arrays_that_are_gone_are_found_and_an_earlier_recording_s_are_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = gallery()["attention"]
    made = folder_of(here)
    target = tmp_path / "attention.trace.jsonl.tensors"
    target.mkdir()
    (target / "step-000007.safetensors").write_bytes(b"of before")
    commands._put_arrays(made, target)
    assert [p.read_bytes() for p in sorted(target.iterdir())] == [
        p.read_bytes() for p in sorted(made.iterdir())
    ]
    (target / "step-000012.safetensors").unlink()
    (tmp_path / here.name).write_bytes(here.read_bytes())
    (tmp_path / "index.toml").write_bytes((index.DIRECTORY / "index.toml").read_bytes())
    monkeypatch.setattr(index, "DIRECTORY", tmp_path)
    problem, _ = commands.held(entries()["attention"], with_model=False)
    assert "step-000012.safetensors is not there: it was deleted" in problem


def test_source_that_changed_makes_a_recording_stale_and_moved_lines_do_not(tmp_path: Path) -> None:
    events = read_trace(gallery()["thrash"]).events
    assert index.stale(events, tmp_path), "nothing is there: all of it has changed"
    moved = tmp_path / "moved"
    for file in {e.data.file for e in events if e.kind == "run.source"}:
        (moved / file).parent.mkdir(parents=True, exist_ok=True)
        texts = [e.data.text for e in events if e.kind == "run.source" and e.data.file == file]
        (moved / file).write_text("# another line\n" * 9 + "\n\n".join(texts))
    assert index.stale(events, moved) == []
    (moved / "minivllm/core/scheduler.py").write_text("")
    assert any(
        "minivllm/core/scheduler.py: Scheduler." in each for each in index.stale(events, moved)
    )


def test_recording_is_put_whole_and_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    target = tmp_path / "x.trace.jsonl.gz"
    for _ in range(2):
        commands._put(b"some lines\n", target)
    assert gzip.decompress(target.read_bytes()) == b"some lines\n"
    assert target.read_bytes()[4:8] == bytes(4), "no time in it"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_wrong_names_and_a_broken_index_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="a recording of the gallery: tiny-pressure"):
        commands.chosen(["nope"])
    with pytest.raises(ConfigError, match="a directory that is there"):
        commands.make(["thrash"], tmp_path / "nowhere")
    monkeypatch.setattr(index, "DIRECTORY", tmp_path)
    with pytest.raises(TraceError, match="cannot read the gallery's index"):
        entries()
    (tmp_path / "index.toml").write_text('[[trace]]\nname = "x"\n')
    with pytest.raises(TraceError, match="missing required field `group`"):
        entries()


def test_list_tells_of_each_what_there_is_to_see_and_how_it_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from minivllm.cli.main import app

    for arguments in (["gallery"], ["gallery", "list"]):
        app(arguments, standalone_mode=False)
        text = capsys.readouterr().out
        for entry in entries().values():
            assert entry.see in text and f"$ {entry.command}\n" in text


def test_names_lead_to_files_packed_or_not() -> None:
    assert find_recording("thrash") == gallery()["thrash"]
    assert find_recording("thrash").name.endswith(".gz")
    assert find_recording("tiny-pressure").name == "tiny-pressure.trace.jsonl"
    assert find_recording("./thrash") == Path("./thrash"), "a path is not a name"


def test_page_is_told_what_there_is_to_see() -> None:
    catalogue = Catalogue()
    ids = [catalogue.add_file(path) for path in gallery().values()]
    assert ids == NAMES
    runs = [run.gallery for run in catalogue.all()]
    assert [run["title"] for run in runs if run] == [e.title for e in entries().values()]
    json.dumps(runs)
    elsewhere = Entry(name="x", group="", title="", see="")
    assert index.entry_of(ROOT / "x.trace.jsonl") is None and not elsewhere.needs_model
    assert msgspec.to_builtins(elsewhere)["wave"] == []
