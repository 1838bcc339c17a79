"""The status board and its printer."""

from __future__ import annotations

import io

from minivllm.setup.progress import EngineStatus, StatusBoard, TerminalReporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_watcher_sees_the_present_and_every_change_in_order() -> None:
    board = StatusBoard(EngineStatus.installing())
    seen: list[str] = []
    unsubscribe = board.subscribe(lambda status: seen.append(status.text))
    board.set(EngineStatus.model(41_000_000, 94_000_000))
    board.set(EngineStatus.model(41_000_000, 94_000_000))  # equal: not told again
    board.set(EngineStatus.loading())
    unsubscribe()
    board.set(EngineStatus.ready())
    assert seen == ["installing", "model 41 of 94 MB", "loading"]
    assert board.get().state == "ready"


def test_a_failure_is_printed_with_its_remedy() -> None:
    out = io.StringIO()
    TerminalReporter(out)(EngineStatus.failed("the disk is full", "free some space"))
    assert out.getvalue() == "engine: failed: the disk is full\n  what to do: free some space\n"


def test_a_log_file_gets_a_line_for_each_tenth_of_a_download() -> None:
    out = io.StringIO()
    reporter = TerminalReporter(out)
    for done in range(0, 93_000_001, 100_000):
        reporter(EngineStatus.model(done, 93_000_000))
    assert 10 <= len(out.getvalue().splitlines()) <= 13
    assert "\r" not in out.getvalue()


def test_a_terminal_counts_in_place_and_keeps_other_lines() -> None:
    out = Terminal()
    reporter = TerminalReporter(out)
    reporter(EngineStatus.model(1_000_000, 93_000_000))
    reporter(EngineStatus.model(2_000_000, 93_000_000))
    reporter(EngineStatus.loading())
    reporter(EngineStatus.ready())
    assert out.getvalue().count("\n") == 2
    assert out.getvalue().endswith("engine: loading\nengine: ready\n")


def test_a_download_that_is_done_or_ends_early_leaves_the_line_to_others() -> None:
    out = Terminal()
    reporter = TerminalReporter(out)
    reporter(EngineStatus.model(93_000_000, 93_000_000))
    reporter.close()
    assert out.getvalue() == "engine: model 93 of 93 MB\n"
    reporter(EngineStatus.model(1_000_000, 93_000_000))
    reporter.close()
    reporter.close()
    assert out.getvalue().endswith("engine: model 1 of 93 MB\n")
