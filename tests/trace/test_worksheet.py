"""The worksheet: BOARD's table in the words of a sheet, blank and filled, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from minivllm.cli.main import app
from minivllm.errors import ConfigError, TraceError
from minivllm.scenario import load_scenario, start
from minivllm.trace.file import Trace
from minivllm.trace.worksheet import (
    ASKED,
    COLUMNS,
    asked_columns,
    cells,
    free_queue,
    make_sheet,
)
from minivllm.trace.worksheet_page import SMALLEST_PT, fitted, sheet_page
from minivllm.trace.worksheet_text import sheet_text
from tests.conftest import RunPython
from tests.helpers import trace_of

EXPECTED = json.loads((Path(__file__).parent.parent / "data/tiny-pressure.json").read_text())
CLI = "import sys; from minivllm.cli.main import main; main(sys.argv[1:])"


def run_of(scenario: str, **knobs: Any) -> Trace:
    return trace_of(start(load_scenario(scenario), **knobs).run())


@pytest.fixture(scope="module")
def trace() -> Trace:
    return run_of("tiny-pressure")


def command(*args: str) -> Result:
    return CliRunner().invoke(app, ["trace", "worksheet", *args])


def table_of(text: str) -> list[list[str]]:
    """The rows of the steps in a Markdown sheet."""
    lines = text.split("| step |")[1].splitlines()[2:]
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_filled_sheet_has_the_expected_table(trace: Trace) -> None:
    rows = [
        dict(zip(COLUMNS, row, strict=True))
        for row in table_of(sheet_text(make_sheet(trace), False))
    ]
    for row, expected in zip(rows, EXPECTED["steps"], strict=True):
        assert row["arrives"] == expected["arrives"] and row["ends"] == expected["ends"]
        assert row["budget"] == str(expected["budget"])
        assert row["waits"] == "; ".join(expected["waits"])
        assert re.sub(r" \(\d+ reused: ↺ [\d ]+\)", "", row["runs"]) == expected["runs"]
        assert row["taken"].replace("✕", "") == (expected["taken"] or "–")
        assert " ".join(re.findall(r"(\d+)✕", row["taken"])) == expected["evicted"]
    shown = {int(row["step"]): (row["runs"], row["taken"], row["free"]) for row in rows}
    assert shown[1] == ("r1 12 of 17", "r1: 1 2 3", "4 … 15")
    assert shown[12] == ("r3 1, r4 7 (4 reused: ↺ 14)", "r3: 15, r4: 10✕ 5✕", "4◆ 3◆ 2◆ 1◆")
    assert shown[6][2] == "–"


def test_a_blank_sheet_hides_what_is_asked_and_nothing_else(trace: Trace) -> None:
    sheet = make_sheet(trace)
    filled = table_of(sheet_text(sheet, False))
    for asked in (ASKED, ("waits", "free")):
        blank = table_of(sheet_text(sheet, True, asked))
        for row, whole in zip(blank, filled, strict=True):
            for name, cell, was in zip(COLUMNS, row, whole, strict=True):
                assert cell == ("" if name in asked else was)
    assert "Name ___" in sheet_text(sheet, True) and "Name ___" not in sheet_text(sheet, False)


def test_the_scenario_stands_above_it(trace: Trace) -> None:
    text = sheet_text(make_sheet(trace), True)
    for words in ("15 blocks of 4 tokens", "a step may run 12 tokens", "prefix caching on"):
        assert words in text
    assert re.search(r"\| r2 +\| 2 +\| You are a kind .*\| 11 +\| first 8 as r1 +\| 4 ", text)
    assert "priority" not in text, "nobody has one"


def test_what_is_cut_off_at_the_front_is_told_as_a_state(trace: Trace) -> None:
    sheet = make_sheet(trace, 9, 12)
    assert [row.step for row in sheet.rows] == [9, 10, 11, 12]
    assert sheet.title == "tiny-pressure, steps 9 to 12 of 17"
    assert sheet.before[1:] == ["waiting: r4 0 of 11 tokens computed", "free queue: 15◆ 14◆"]
    assert make_sheet(trace, 1, 3).before == []
    assert [a.req for a in make_sheet(trace, 1, 3).arrivals] == ["r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("scenario", "knobs"),
    [
        ("tiny-pressure", {"batching": "static"}),
        ("tiny-pressure", {"enable_prefix_caching": False, "kv_manager_cls": "contiguous"}),
        ("tiny-pressure", {"max_num_seqs": 1}),
        ("memory-pressure", {"policy": "priority"}),
        ("mixed-lengths", {"long_prefill_token_threshold": 8}),
    ],
)
def test_every_request_of_every_step_is_accounted_for(scenario: str, knobs: dict[str, Any]) -> None:
    trace = run_of(scenario, **knobs)
    sheet = make_sheet(trace)
    for row in sheet.rows:
        alive = set(trace.state_before(row.step).requests) | set(row.arrives.split(", ")) - {""}
        alive -= set(trace.state_before(row.step).finished)
        told = " ".join([row.runs, *row.waits])
        # One whose tokens were computed and whose batch goes on (static batching) just ends.
        silent = {req for req in alive if not re.search(rf"\b{req}\b", f"{told} {row.ends}")}
        assert not silent, row
    names = " ".join(sheet.knobs)
    for name in knobs:
        if name in ("batching", "kv_manager_cls", "long_prefill_token_threshold"):
            assert name in names


def test_a_long_free_queue_is_counted() -> None:
    assert free_queue([]) == ""
    assert free_queue(["1", "2", "3"]) == "1 2 3"
    assert free_queue([*"1234", "7*", "6*"]) == "1 … 4 7◆ 6◆"
    long = free_queue([f"{n}*" for n in range(40)])
    assert long.startswith("0◆ 1◆") and long.endswith("and more, 40 in all")


def test_an_abort_is_told_where_it_ends() -> None:
    run = start(load_scenario("tiny-pressure"))
    for _ in range(3):
        run.step()
    run.core.abort_request("tiny-pressure-2", "client")  # type: ignore[arg-type]
    run.run()
    rows = [cells(row) for row in make_sheet(trace_of(run)).rows]
    assert any(row["ends"] == "r2 (abort)" for row in rows)


# --- on paper ----------------------------------------------------------------------------------


def test_the_print_shrinks_until_the_sheet_fits(trace: Trace) -> None:
    sizes = [fitted(make_sheet(run_of("memory-pressure"), 1, last)).size_pt for last in (5, 22, 27)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1] >= SMALLEST_PT
    fit = fitted(make_sheet(trace))
    assert fit.row_pt * 17 < 532 and abs(sum(fit.widths) - 1) < 1e-9


def test_what_does_not_fit_on_a_page_is_refused_with_what_would() -> None:
    trace = run_of("memory-pressure")
    with pytest.raises(ConfigError, match=r"got '89 steps'.*here about (\d+)") as refused:
        sheet_page(make_sheet(trace), [True])
    found = re.search(r"1 to (\d+) ", str(refused.value))
    assert found is not None
    sheet_page(make_sheet(trace, 1, int(found[1])), [True])


def test_a_prompt_is_text_and_never_markup() -> None:
    scenario = load_scenario("tiny-pressure")
    scenario.request[3].prompt_texts = ["<script>alert(1)</script>"] + ["|"] * 7
    sheet = make_sheet(trace_of(start(scenario).run()))
    page = sheet_page(sheet, [True, False])
    assert "<script" not in page and "&lt;script&gt;" in page and "style=" not in page
    assert "\\|" in sheet_text(sheet, True), "in a cell, it would begin another"


# --- the command -------------------------------------------------------------------------------


def test_the_command_writes_what_is_asked_for(tmp_path: Path) -> None:
    both = command("tiny-pressure").stdout
    assert both.count("# tiny-pressure") == 2
    assert (
        command("tiny-pressure", "--blank").stdout
        + "\n"
        + command("tiny-pressure", "--filled").stdout
        == both
    )
    out = tmp_path / "sheet.html"
    assert command("tiny-pressure", "-o", str(out)).stdout == f"{out}: blank, filled\n"
    assert out.read_text().count("<section>") == 2
    assert command("tiny-pressure", "--blank", "-o", str(tmp_path / "a.md")).exit_code == 0
    assert table_of((tmp_path / "a.md").read_text())[0][:3] == ["1", "r1", ""]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tiny-pressure", "--ask", "waits,step"], "--ask: got 'step'"),
        (["tiny-pressure", "--from", "0"], "--from: got 0; allowed: a step of this run, 1 to 17"),
        (["tiny-pressure", "--to", "18"], "--to: got 18; allowed: a step of this run, 1 to 17"),
        (["tiny-pressure", "--from", "9", "--to", "4"], "--from: got 9; allowed: a step up to"),
        (["tiny-pressure", "-o", "sheet.pdf"], "--out: got 'sheet.pdf'"),
        (["tiny-pressure", "-o", "no/such/place.md"], "No such file or directory"),
        (["no-such-trace"], "no-such-trace"),
    ],
)
def test_what_it_cannot_do_is_said(args: list[str], words: str) -> None:
    refused = command(*args)
    assert refused.exit_code and words in str(refused.exception)


def test_columns_and_empty_runs_are_named() -> None:
    assert asked_columns("") == ASKED and asked_columns(" waits , free ") == ("waits", "free")
    empty = start(load_scenario("tiny-pressure"))
    with pytest.raises(TraceError, match="no step ran"):
        make_sheet(trace_of(empty))


def test_it_needs_no_torch(python_without: RunPython) -> None:
    done = python_without(CLI, "trace", "worksheet", "tiny-pressure", "--blank")
    assert done.returncode == 0
