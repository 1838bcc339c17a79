"""``--trace-check``: an engine that breaks an invariant says so in the step in which it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.config import make_config
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.parts import build
from minivllm.errors import ConfigError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.request import Request
from minivllm.trace.events import Event, KvUncache, Reason
from minivllm.trace.fold import fold
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.story import story
from minivllm.trace.structural import structural
from tests.core.builders import HEADER, SMALL, message
from tests.helpers import events_of

LEAK = "r1 holds 2 blocks, but does not run"


class LeakyKVManager(KVCacheManager):
    """Forgets the table of who has ended, and does not give its blocks back."""

    def free(self, request: Request) -> None:
        self.tables.pop(request.req_id, None)


class LyingKVManager(KVCacheManager):
    """Tells of a block that there is not."""

    def free(self, request: Request) -> None:
        self.trace.emit(KvUncache, request.req_id, block=99, hash="00", reason=Reason.NOT_EXECUTED)
        super().free(request)


def run(kv_manager: type, path: Path | None = None, check: bool = True) -> list[Event]:
    """r1 ends in step 2, r2 in step 4."""
    config = make_config(**{**SMALL, "kv_manager_cls": kv_manager})
    recorder = Recorder(TraceLog(HEADER, str(path) if path else None), check=check)
    core = EngineCore(config, ScriptedExecutor(config, counting_tokens), recorder)
    core.add_request(message("a", 6, max_tokens=2))
    core.add_request(message("b", 6, max_tokens=4))
    for _ in range(4):
        core.step()
    recorder.close()
    return events_of(recorder)


def told(events: list[Event]) -> list[tuple[int, str]]:
    return [(e.step, e.data.message) for e in events if e.kind == "trace.violation"]


def test_breach_is_told_in_its_step_and_once() -> None:
    events = run(LeakyKVManager)
    assert [step for step, message in told(events) if message == LEAK] == [2]
    kinds = [event.kind for event in events if event.step == 2]
    assert kinds[-2:] == ["trace.violation", "step.end"]


def test_sound_engine_tells_nothing() -> None:
    assert told(run(KVCacheManager)) == []


def test_who_did_not_ask_is_told_nothing() -> None:
    assert told(run(LeakyKVManager, check=False)) == []


def test_story_begins_with_the_breach() -> None:
    events = run(LeakyKVManager)
    before = fold(event for event in events if event.step < 2)
    headline = story(before, [event for event in events if event.step == 2]).headline
    assert headline.startswith(f"An invariant is broken: {LEAK}.")


def test_engine_outlives_what_cannot_be_folded() -> None:
    ((step, message),) = told(run(LyingKVManager))
    assert step == 2 and "(kv.uncache) does not fit what was told before it" in message


def test_check_changes_no_decision() -> None:
    assert structural(run(LeakyKVManager)) == structural(run(LeakyKVManager, check=False))


def test_trace_check_says_it_once(tmp_path: Path) -> None:
    path = tmp_path / "leak.jsonl"
    run(LeakyKVManager, path)
    result = CliRunner().invoke(app, ["trace", "check", str(path)])
    assert result.exit_code == 1
    assert result.output.count(f"step 2: {LEAK}\n") == 1


def test_check_without_a_trace_is_refused() -> None:
    with pytest.raises(ConfigError, match="check"):
        config = make_config(**SMALL, check=True)
        build(
            config,
            executor_factory=lambda config: ScriptedExecutor(config, counting_tokens),
            tokenizer=object(),  # type: ignore[arg-type]
        )
