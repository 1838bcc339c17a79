"""A fork from the page: a recorded or live run again, with other knobs from a step on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivllm.cli import workbench
from minivllm.cli.workbench import ScenarioBench
from minivllm.errors import ConfigError, ReplayError
from minivllm.scenario import load_scenario, start
from minivllm.trace.diff import compare
from minivllm.trace.file import read_trace
from tests.replay.builders import forked
from tests.viz.conftest import MakeEngine
from viz.commands import BadCommand, CommandThread
from viz.forks import trace_of
from viz.pages import describe_run
from viz.server import BoardApp, create_app

AT_FIVE = {"run": "tiny-pressure", "step": 5, "knobs": {"max_num_seqs": 2}}


@pytest.fixture
def app(tiny_pressure: Path) -> BoardApp:
    return create_app([tiny_pressure], workbench=ScenarioBench())


def made(app: BoardApp, wish: dict[str, Any]) -> Any:
    run = app.catalogue.get(app.fork(wish)["run"])
    assert run is not None
    return trace_of(run, "engine0", None)


def test_a_fork_from_the_page_is_the_one_of_the_command_line(
    app: BoardApp, tiny_pressure: Path
) -> None:
    other = forked(read_trace(tiny_pressure), at_step=5, max_num_seqs=2)
    result = compare(made(app, AT_FIVE), other)
    assert result.same and result.knobs == []


def test_from_the_first_step_on_the_pool_can_be_another(app: BoardApp) -> None:
    trace = made(app, {"run": "tiny-pressure", "step": 1, "knobs": {"num_kv_blocks": 24}})
    assert trace.last_step == 13 and trace.header.forked_from.endswith("@1")


def test_it_is_offered_by_its_knobs_and_their_step(app: BoardApp) -> None:
    app.fork(AT_FIVE)
    listed = [describe_run(run)["label"] for run in app.catalogue.all()]
    assert listed[-1] == "tiny-pressure-2 · max_num_seqs=2 from step 5 on"


def test_tokens_that_were_never_recorded_are_told(app: BoardApp) -> None:
    answer = app.fork({"run": "tiny-pressure", "step": 1, "knobs": {"num_kv_blocks": 24}})
    assert answer == {"run": "tiny-pressure-2", "placeholders": {}}


def test_a_live_run_is_forked_as_far_as_it_has_come(app: BoardApp, make_engine: MakeEngine) -> None:
    engine = make_engine(paused=True)
    app.attach_engine(engine)
    for prompt in ("one two three", "four five six seven"):
        engine.submit(prompt)
    engine.gate.step(6)
    wait_for(lambda: steps_of(app) >= 6)
    trace = made(app, {"run": "live", "step": 4, "knobs": {"max_num_seqs": 1}})
    assert trace.last_step == 6, "it ends where the recording does"


def steps_of(app: BoardApp) -> int:
    run = app.catalogue.get("live")
    assert run is not None
    return trace_of(run, "engine0", None).last_step


def wait_for(there: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not there():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "wish",
    [
        None,
        {},
        {"run": "tiny-pressure", "step": "5", "knobs": {"max_num_seqs": 2}},
        {"run": "../secret", "step": 5, "knobs": {"max_num_seqs": 2}},
        {**AT_FIVE, "stream": "api"},
        {**AT_FIVE, "life": 7},
        {**AT_FIVE, "knobs": {"max_num_seqs": [2]}},
    ],
)
def test_a_wish_that_is_none_is_refused_in_words(app: BoardApp, wish: Any) -> None:
    with pytest.raises(BadCommand, match=r"^fork: "):
        app.fork(wish)


@pytest.mark.parametrize(
    ("step", "knobs"),
    [
        (5, {"num_kv_blocks": 24}),  # pools are made once
        (99, {"max_num_seqs": 2}),
        (0, {"max_num_seqs": 2}),
        (1, {}),
        (1, {"num_kv_blocks": 1_000_000}),
        (1, {"scheduler_cls": "os.path.join"}),
        (1, {"kv_manager_cls": "evil.py:Class"}),
        (1, {"path": "somewhere.jsonl"}),
    ],
)
def test_the_page_can_ask_for_nothing_else(app: BoardApp, step: int, knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        app.fork({"run": "tiny-pressure", "step": step, "knobs": knobs})


def test_a_class_that_a_trace_names_is_never_loaded(tiny_pressure: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('it ran')")
    path = tmp_path / "from-a-stranger.jsonl"
    text = tiny_pressure.read_text(encoding="utf-8")
    path.write_text(text.replace('"scheduler_cls":"default"', f'"scheduler_cls":"{evil}:Class"'))
    app = create_app([path], workbench=ScenarioBench())
    with pytest.raises(ConfigError, match="scheduler_cls"):
        app.fork({**AT_FIVE, "run": "from-a-stranger"})


def test_a_run_without_its_beginning_cannot_be_forked() -> None:
    app = create_app(workbench=ScenarioBench())
    run = start(load_scenario("tiny-pressure"), retention=5).run()
    run_id = app.catalogue.add_simulated(run.recorder.log, {})
    with pytest.raises(ReplayError, match="beginning was cut off"):
        app.fork({"run": run_id, "step": 14, "knobs": {"max_num_seqs": 2}})


def test_a_run_that_is_too_long_is_refused_with_the_way_out(
    app: BoardApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "MOST_EVENTS", 100)
    with pytest.raises(ReplayError, match="minivllm fork"):
        app.fork(AT_FIVE)


def test_a_fork_that_does_not_end_is_told(app: BoardApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "MORE_STEPS", 1)
    with pytest.raises(ReplayError, match="not ended 1 steps"):
        app.fork({"run": "tiny-pressure", "step": 1, "knobs": {"max_num_seqs": 1}})


def test_it_needs_a_workbench_and_no_engine(app: BoardApp, tiny_pressure: Path) -> None:
    answers: list[dict[str, Any]] = []
    commands = CommandThread(
        lambda: None, {"fork": app.fork}, lambda _sid, told: answers.append(told)
    )
    commands.handle("sid", {"id": 1, "op": "fork", "value": AT_FIVE})
    assert answers == [
        {"id": 1, "ok": True, "value": {"run": "tiny-pressure-2", "placeholders": {}}}
    ]
    with pytest.raises(BadCommand, match="only shows runs"):
        create_app([tiny_pressure]).fork(AT_FIVE)
