"""One step as a screen: exact in size, equal to the fold in content, safe with any text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from minivllm.terminal import cells
from minivllm.terminal.board import board
from minivllm.terminal.cells import marks_of
from minivllm.terminal.history import History, View
from minivllm.terminal.regions import budget
from minivllm.terminal.runs import open_run
from minivllm.terminal.scene import Scene
from minivllm.terminal.text import clean, tail
from tests.core.builders import Engine
from tests.helpers import events_of, trace_of
from tests.terminal.test_history import history_of

SIZES = [(80, 22), (120, 38), (200, 58), (40, 12), (130, 20), (80, 50), (300, 100)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def history() -> History:
    return history_of(start(load_scenario("tiny-pressure")).run())


def text_of(view: View, width: int = 80, height: int = 22) -> list[str]:
    return [line.plain for line in board(view, width, height)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_line_has_the_width_and_there_are_as_many_as_asked(
    history: History, width: int, height: int
) -> None:
    for step in history.steps:
        lines = text_of(history.view(step), width, height)
        assert len(lines) == height
        assert {cell_len(line) for line in lines} == {width}


@pytest.mark.parametrize(("width", "height"), [(80, 22), (120, 38), (200, 58), (80, 50)])
def test_regions_keep_their_places(history: History, width: int, height: int) -> None:
    names = ["WAITING", "RUNNING", "DONE", "BUDGET", "KV POOL", "FREE"]
    names += ["EVENTS", "WHY"] if height > 22 else []
    names += ["BLOCK TABLES", "SOURCE"] if width > 100 else []
    names += ["TENSORS"] if width > 150 else []
    places = set()
    for step in history.steps:
        lines = text_of(history.view(step), width, height)
        found = {name: [i for i, line in enumerate(lines) if name in line][:1] for name in names}
        places.add(json.dumps(found))
    assert len(places) == 1


@pytest.mark.parametrize("name", ["thrash", "whole-prefill", "chunked-prefill", "roomy"])
@pytest.mark.parametrize("width", [40, 55, 60, 66, 80, 120])
def test_the_budget_bar_keeps_its_scale_from_step_to_step(name: str, width: int) -> None:
    history = runs_of(name)
    scales = set()
    for step in list(history.steps)[1:]:
        view = history.view(step)
        bar, _ = budget(Scene(view, marks_of(view.events)), width)
        assert bar.cell_len <= width, bar.plain
        found = re.search(r"■ = (\d+)  ", bar.plain)
        scales.add(int(found[1]) if found else 1)
    assert len(scales) == 1


def runs_of(name: str) -> History:
    return open_run(name, {}).history


@pytest.mark.parametrize("name", ["tiny-pressure.trace.jsonl", "thrash"])
def test_no_line_is_blank_where_something_had_no_room(name: str) -> None:
    history = runs_of(name)
    for step in list(history.steps)[1:40]:
        view = history.view(step)
        small = text_of(view, 80, 22)
        free_rows = 5 - len(view.state.running)
        assert "TABLES" in "".join(small) or not view.state.running or free_rows < 1
        assert "WHY" in "".join(small) or free_rows < 2
        assert sum(not line.strip() for line in small) <= 3  # head, and the two who may wait
        for width, height in [(120, 38), (200, 58), (200, 39)]:
            lines = text_of(view, width, height)
            text = "\n".join(lines)
            assert all(n in text for n in ("EVENTS", "BLOCK TABLES", "WHY", "SOURCE")), text
            assert any("▸" in line and re.search(r"▸ +\d+× ", line) for line in lines), text
            if height < 50:
                assert sum(not line.replace("│", "").strip() for line in lines) <= 7, text
            else:
                assert "TENSORS" in text


def test_head_keeps_run_and_place_apart_and_cuts_no_story() -> None:
    history = runs_of("tiny-pressure.trace.jsonl")
    kinds = [event.kind for event in history.events(8)]
    lines = text_of(history.view(8, kinds.index("req.preempt") + 1), 80, 22)
    assert "  schedule, event 1" in lines[0] and lines[0].rstrip().endswith("step 8 of 17")
    assert " ".join(line.strip() for line in lines[1:4]).endswith("10 computed tokens.")


def test_in_the_middle_of_a_step_the_newest_events_are_shown(history: History) -> None:
    for width, height in [(120, 38), (200, 58)]:
        view = history.view(5, 22)
        assert view.event is not None
        text = "\n".join(text_of(view, width, height))
        assert f"{view.event.seq} {view.event.phase}" in text


def test_board_shows_what_the_fold_holds(history: History) -> None:
    for step in history.steps:
        view = history.view(step)
        state, text = view.state, "\n".join(text_of(view))
        free = re.search(r"FREE next to be taken → (.*)", text)
        assert free is not None
        shown = [int(n) for n in re.findall(r"\d+", free[1].split("…")[0])]
        assert shown == state.free[: len(shown)]
        for block_id, block in enumerate(state.blocks[1:], start=1):
            owners = [name for name, r in state.requests.items() if block_id in r.table]
            name = owners[0] if owners else "▒▒" if block.hash else "··"
            times = f"×{len(owners)}" if len(owners) > 1 else ""
            mark = cells.marks_of(view.events).blocks.get(block_id, " ")
            hashed = cells.HASHED if block.hash else ""
            assert f"{block_id:>2}{mark}{name}{times}{hashed}" in text
        assert f"WAITING {len(state.waiting)}" in text
        assert f"RUNNING {len(state.running)}" in text
        assert f"DONE {len(state.finished)}" in text
        ledger = next((e.data for e in view.of("sched.ledger")), None)
        assert f"BUDGET {ledger.used if ledger else 0} of 12" in text


def test_step_8_is_as_the_visual_language_says(history: History) -> None:
    text = "\n".join(text_of(history.view(8)))
    assert "r4 ! 0 of 11  preempted for r3 in this step" in text
    assert "■■■■ ■■■■ ■■■■ ■■■■ ■●●● ●●◉○ " in text
    assert "■■■■ ■■■■ ■■■■ ■■■■ ■■■■ ■■●● ◉○ " in text
    assert "10 unused: preempted_this_step (r4)" in text
    assert "14−▒▒◆     15−▒▒◆" in text
    assert "FREE next to be taken → 15◆ 14◆" in text


def test_reused_tokens_and_shared_blocks_have_their_own_glyphs(history: History) -> None:
    text = "\n".join(text_of(history.view(2)))
    assert "▨▨▨▨ ▨▨▨▨ ◉◉◉○" in text
    assert "1↺r1×2◆" in text


def test_rows_share_one_scale_when_they_are_long() -> None:
    scenario = Scenario(
        name="long",
        engine={"num_kv_blocks": 100, "block_size": 16, "max_num_batched_tokens": 600},
        request=[
            ScenarioRequest(arrives=1, output_tokens=2, prompt_token_ids=list(range(400))),
            ScenarioRequest(arrives=1, output_tokens=2, prompt_token_ids=list(range(1000, 1100))),
        ],
    )
    lines = text_of(history_of(start(scenario).run()).view(1))
    rows = [line for line in lines if line.startswith((" r1", " r2")) and cells.RAN in line]
    glyphs = [sum(line.count(c) for c in cells.RAN + cells.KNOWN) for line in rows]
    assert len(glyphs) == 2
    assert abs(glyphs[0] / glyphs[1] - 4) < 0.7


def test_many_requests_and_blocks_are_counted_not_dropped() -> None:
    requests = [
        ScenarioRequest(arrives=1, output_tokens=3, prompt_token_ids=[i * 10 + k for k in range(4)])
        for i in range(300)
    ]
    scenario = Scenario(
        name="crowd",
        engine={"num_kv_blocks": 5000, "block_size": 4, "max_num_seqs": 200},
        request=requests,
    )
    history = history_of(start(scenario).run())
    for width, height in SIZES:
        for step in (1, 2):
            lines = text_of(history.view(step), width, height)
            assert len(lines) == height
            assert {cell_len(line) for line in lines} == {width}
    text = "\n".join(text_of(history.view(2)))
    assert "decode ×200" in text
    assert re.search(r"… \d+ more run", text)
    assert re.search(r"… \d+ more, the last is r300", text)


NASTY = ["你好", "世界", "🎉", "👩‍👩‍👧", "\x1b[31m", "\r\n\t", "é", "\u202e", "\ud7a3", "\ufffd"]


def test_wide_characters_and_control_codes_cannot_break_a_line() -> None:
    ids = list(range(len(NASTY)))
    scenario = Scenario(
        name="nasty \x1b[2J",
        engine={"num_kv_blocks": 20, "block_size": 4, "max_num_batched_tokens": 8},
        request=[
            ScenarioRequest(
                arrives=1,
                prompt_token_ids=ids,
                prompt_texts=NASTY,
                output_tokens=len(ids),
                output_token_ids=ids,
                output_texts=NASTY,
            )
        ],
    )
    history = history_of(start(scenario).run())
    for step in history.steps:
        for width, height in SIZES:
            lines = text_of(history.view(step), width, height)
            assert {cell_len(line) for line in lines} == {width}
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200d\u202e]", "".join(lines))


def test_clean_shows_control_characters_and_tail_counts_cells() -> None:
    assert clean("a\nb\x1b[0m\x00") == "a⏎b␛[0m␀"
    assert tail("你好世界", 5) == "…世界"
    assert tail("abc", 3) == "abc"


def test_hues_are_the_pages_palette() -> None:
    palette = json.loads((ROOT / "viz/static/palette.json").read_text())["themes"]
    for theme in ("dark", "light"):
        assert cells.HUES[theme] == palette[theme]["hues"]
        assert cells.GREYS[theme] == palette[theme]["grey"]


def test_the_terminals_own_background_decides_the_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert cells.theme() == "light"
    monkeypatch.setenv("COLORFGBG", "15;0")
    assert cells.theme() == "dark"
    monkeypatch.delenv("COLORFGBG")
    assert cells.theme() == "dark"


def test_events_of_a_trace_without_sources_still_draw() -> None:
    trace = trace_of(start(load_scenario("tiny-pressure")).run())
    history = History(trace.header)
    history.extend(e for e in trace.engine_events if e.kind != "run.source")
    assert "r4 is preempted" in "\n".join(text_of(history.view(8), 200, 58))


def test_a_request_that_failed_has_another_mark_than_one_that_is_done() -> None:
    engine = Engine()
    engine.add("too long", 70), engine.add("done", 4, max_tokens=1)
    engine.step()
    marks = cells.marks_of(events_of(engine.trace)).requests
    assert marks == {"r1": cells.FAILED, "r2": cells.FINISHED}
