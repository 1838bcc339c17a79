"""A run as one file: what goes in, what is refused, and who may fetch it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minivllm.errors import ExportError
from minivllm.scenario import load_scenario, start
from minivllm.trace.artifacts import folder_of
from minivllm.trace.file import parse_trace, read_trace
from minivllm.trace.fold import to_json
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, Engine
from tests.core.tensors import TensorExecutor
from tests.helpers import write_two_lives
from viz import export
from viz.access import Access
from viz.export import Export
from viz.runs import LiveRun, RecordedRun
from viz.server import BoardApp, create_app

PAGE_BYTES = 1_000_000
"""What an exported file may take beside its traces."""

NASTY = "</script><script>window.pwned = 1</script><!-- &quot;"


def html_of(*runs: Any, **wishes: Any) -> str:
    return b"".join(Export(runs, **wishes).parts()).decode()


def block(html: str, name: str) -> bytes:
    """What lies in a data block of the file."""
    found = re.search(rf'<script type="application/gzip" id="{name}">([^<]*)</script>', html)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1], validate=True))


def page_of(html: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(block(html, "page"))
    return page


def recorded(path: Path) -> RecordedRun:
    return RecordedRun("r", path)


def test_the_trace_in_the_file_is_the_one_that_was_given(tiny_pressure: Path) -> None:
    html = html_of(recorded(tiny_pressure))
    again = parse_trace(block(html, "trace-0"), "exported")
    given = read_trace(tiny_pressure)
    assert (again.header, again.events) == (given.header, given.events)
    (row,) = page_of(html)["about"]["runs"]
    assert row["file"] == {
        "name": "tiny-pressure.trace.jsonl",
        "made": given.header.created,
        "version": given.header.engine_version,
    }


def test_each_life_of_each_stream_is_in_it(tmp_path: Path) -> None:
    path = write_two_lives(tmp_path / "two.jsonl")
    again = parse_trace(block(html_of(recorded(path)), "trace-0"), "exported")
    assert list(again.lives()) == list(read_trace(path).lives())


def test_the_page_takes_less_than_a_megabyte(tiny_pressure: Path) -> None:
    html = html_of(recorded(tiny_pressure))
    trace = re.search(r'id="trace-0">([^<]*)<', html)
    assert trace is not None and len(html) - len(trace[1]) < PAGE_BYTES


def test_it_holds_all_that_the_page_imports_and_nothing_that_needs_a_server(
    tiny_pressure: Path,
) -> None:
    modules = page_of(html_of(recorded(tiny_pressure)))["modules"]
    wanted, seen = ["#app.js"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        source = modules[name]
        wanted += re.findall(r'\b(?:from|import)\s*\(?\s*"([#\w./-]+)"', source)
        wanted = [each for each in wanted if each != "#net/live.js"]  # only where hasServer
    assert "#net/home.js" in seen and "lit-html/directives/repeat.js" in seen
    assert not any("socket.io" in name for name in modules)


def test_nothing_that_was_said_can_end_its_element(tmp_path: Path) -> None:
    path = tmp_path / "nasty.trace.jsonl"
    trace = Recorder(TraceLog(msgspec.structs.replace(HEADER, name=NASTY), str(path)))
    e = Engine(trace=trace)
    e.add("a", 6, max_tokens=2)
    e.run()
    trace.flush()
    text = path.read_bytes().replace(
        b'"request_id":"a"', b'"request_id":' + json.dumps(NASTY).encode()
    )
    path.write_bytes(text)
    run = RecordedRun(NASTY, path)
    html = html_of(run)
    assert "<script>window" not in html and "<title>minivllm · &lt;/script&gt;" in html
    scripts = re.findall(r"<script[^>]*>", html)
    assert [s for s in scripts if "application/gzip" not in s] == scripts[-1:]


def test_the_policy_in_the_file_lets_run_its_own_script_alone(tiny_pressure: Path) -> None:
    pages = [html_of(recorded(tiny_pressure)) for _ in range(2)]
    nonces = []
    for html in pages:
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
        assert policy is not None
        rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
        assert rules["default-src"] == "'none'" and "connect-src" not in rules
        assert "unsafe" not in policy[1] and "http" not in policy[1]
        own = re.fullmatch(r"'sha256-\S+' 'nonce-([\w-]+)'", rules["script-src"])
        assert own is not None and html.count(own[1]) == 2  # in the policy, on the one script
        nonces.append(own[1])
    assert nonces[0] != nonces[1]


def test_no_address_outside_is_named(tiny_pressure: Path) -> None:
    html = html_of(recorded(tiny_pressure))
    page = page_of(html)
    texts = [html, *page["modules"].values(), *page["resources"].values()]
    hosts = {host for text in texts for host in re.findall(r"https?://([\w.-]+)", text)}
    assert hosts <= {"www.w3.org"}
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_steps_are_cut_out_with_the_state_before_them(tiny_pressure: Path) -> None:
    html = html_of(recorded(tiny_pressure), steps=(6, 12))
    part = parse_trace(block(html, "trace-0"), "part")
    whole = read_trace(tiny_pressure)
    assert (part.first_step, part.last_step) == (6, 12)
    for step in (6, 9, 12):
        assert to_json(part.state_before(step)) == to_json(whole.state_before(step))
    assert page_of(html)["about"]["runs"][0]["script"] is None
    assert (
        parse_trace(block(html_of(recorded(tiny_pressure), steps=(1, 99)), "trace-0"), "all").events
        == whole.events
    )


def test_steps_that_are_not_there_are_refused(tiny_pressure: Path) -> None:
    with pytest.raises(ExportError, match="has no step 90 to 99"):
        Export([recorded(tiny_pressure)], steps=(90, 99))


def test_a_run_that_is_too_large_is_refused_with_what_to_do(tiny_pressure: Path) -> None:
    with pytest.raises(ExportError, match="Choose some of its steps: --from and --to"):
        Export([recorded(tiny_pressure)], max_bytes=10_000)
    assert Export([recorded(tiny_pressure)], steps=(17, 17), max_bytes=60_000)


def test_a_live_run_whose_beginning_is_gone_is_refused_and_one_with_a_snapshot_is_not(
    tiny_pressure: Path,
) -> None:
    log = TraceLog(HEADER, retention=20)
    log.append("engine0", tiny_pressure.read_bytes().splitlines()[1:], 17)
    with pytest.raises(ExportError, match="serve with --trace-retention"):
        Export([LiveRun("live", log)])
    kept = start(load_scenario("tiny-pressure"), retention=2).run().recorder.log
    part = parse_trace(block(html_of(LiveRun("live", kept)), "trace-0"), "part")
    assert part.first_step > 1 and part.engine_events[0].kind == "run.snapshot"


def start_engine(log: TraceLog) -> None:
    e = Engine(trace=Recorder(log))
    e.add("a", 6, max_tokens=12)
    e.run()
    e.trace.flush()


# --- arrays ----------------------------------------------------------------------------------


@pytest.fixture
def with_arrays(tmp_path: Path) -> Path:
    path = tmp_path / "arrays.jsonl"
    trace = Recorder(TraceLog(HEADER, str(path)))
    e = Engine(executor=TensorExecutor, trace=trace, level="tensors")
    e.add("a", 6, max_tokens=3)
    e.run()
    trace.flush()
    return path


def test_arrays_of_captured_steps_are_in_it(with_arrays: Path) -> None:
    html = html_of(recorded(with_arrays))
    (row,) = page_of(html)["about"]["runs"]
    index, data = row["arrays"]["index"], block(html, "arrays-0")
    place = index["engine0/1/2/seq_lens"]
    assert (place["dtype"], place["shape"], place["as"]) == ("I32", [1], "i4")
    assert int.from_bytes(data[place["from"] :][:4], "little") == 4
    assert index["engine0/1/2/attention.r1"]["as"] == "f2" and not row["arrays"]["left_out"]


def test_what_of_the_arrays_is_left_out_is_said(
    with_arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_ARRAY_BYTES", 64)
    made = Export([recorded(with_arrays)])
    (words,) = made.left_out
    assert "left out: attention.r1 of step" in words
    for file in folder_of(with_arrays).iterdir():
        file.unlink()
    (words,) = Export([recorded(with_arrays)]).left_out
    assert "is not there: it was deleted" in words


# --- by HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def board(tiny_pressure: Path, tmp_path: Path) -> BoardApp:
    log = TraceLog(HEADER)
    start_engine(log)
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(msgspec.json.encode(HEADER) + b"\n")
    app = create_app([tiny_pressure, empty])
    app.catalogue.put_live(LiveRun("live", log))
    return app


def test_server_gives_any_run_of_its_list_as_a_file(board: BoardApp) -> None:
    http = board.test_client()
    answer = http.get("/api/runs/tiny-pressure/export?with=live")
    assert answer.status_code == 200
    named = 'attachment; filename="tiny-pressure-live.html"'
    assert answer.headers["Content-Disposition"] == named
    about = page_of(answer.text)["about"]
    assert [row["id"] for row in about["runs"]] == ["tiny-pressure", "live"]
    assert about["start"] == "#/run/tiny-pressure?view=compare&with=live"
    alone = http.get("/api/runs/live/export?from=2&to=3")
    part = parse_trace(block(alone.text, "trace-0"), "live")
    assert (part.first_step, part.last_step) == (2, 3)


@pytest.mark.parametrize(
    ("place", "status", "says"),
    [
        ("nobody/export", 404, "there is no run 'nobody'"),
        ("live/export?with=nobody", 404, "there is no run 'nobody'"),
        ("live/export?from=x", 400, "whole numbers"),
        ("live/export?from=9&to=3", 400, "1 <= from <= to"),
        ("live/export?from=900", 422, "live has no step 900 or later"),
        ("empty/export", 422, "nothing ran"),
    ],
)
def test_what_is_refused_is_said(board: BoardApp, place: str, status: int, says: str) -> None:
    answer = board.test_client().get(f"/api/runs/{place}")
    assert (answer.status_code, says in answer.text) == (status, True)


def test_who_may_not_look_gets_no_file(tiny_pressure: Path) -> None:
    http = create_app([tiny_pressure], access=Access("secret")).test_client()
    place = "/api/runs/tiny-pressure/export"
    from_afar = {"REMOTE_ADDR": "10.0.0.7"}
    assert http.get(place, environ_base=from_afar).status_code == 403


def test_few_files_are_made_at_once_and_a_refused_one_takes_no_place(board: BoardApp) -> None:
    http = board.test_client()
    for _ in range(5):
        assert http.get("/api/runs/empty/export").status_code == 422
    under_way = [http.get("/api/runs/live/export", buffered=False) for _ in range(2)]
    busy = http.get("/api/runs/live/export")
    assert busy.status_code == 503 and busy.headers["Retry-After"]
    for answer in under_way:
        answer.close()
    assert http.get("/api/runs/live/export").status_code == 200


# --- by the command --------------------------------------------------------------------------


def test_an_export_that_fails_midway_leaves_the_old_file(
    tiny_pressure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minivllm.cli.trace_export import _write
    from minivllm.errors import TraceError

    out = tmp_path / "out.html"
    out.write_text("the old one")
    out.chmod(0o640)

    def breaking() -> Any:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(TraceError, match=r"cannot write .*No space left"):
        _write(out, breaking())
    assert out.read_text() == "the old one" and os.listdir(tmp_path) == ["out.html"]
    assert _write(out, [b"new"]) == 3
    assert out.read_text() == "new" and out.stat().st_mode & 0o777 == 0o640


def test_other_programs_forms_take_one_trace(tiny_pressure: Path, tmp_path: Path) -> None:
    from minivllm.cli.trace_export import export as command
    from minivllm.errors import ConfigError

    other = tmp_path / "o.json"
    with pytest.raises(ConfigError, match="one for --perfetto"):
        command([tiny_pressure, tiny_pressure], None, other, None, None, None)
    with pytest.raises(ConfigError, match="this is a directory"):
        command([tiny_pressure], tmp_path, None, None, None, None)
    with pytest.raises(ConfigError, match="another file than the trace"):
        command([tiny_pressure], tiny_pressure, None, None, None, None)


def test_a_run_of_this_moment_can_be_exported_while_it_goes_on() -> None:
    run = start(load_scenario("tiny-pressure"))
    for _ in range(5):
        run.step()
    run.recorder.flush()
    live = LiveRun("live", run.recorder.log)
    made = Export([live])
    run.run()
    part = parse_trace(block(b"".join(made.parts()).decode(), "trace-0"), "live")
    assert part.last_step == 5
