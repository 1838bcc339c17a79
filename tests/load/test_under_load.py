"""What the server promises under load, in a few seconds each; the scripts do it for as long as one
likes (``python -m tests.load.soak --seconds 120``)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load import crowd, soak
from tests.load.chaos import chaos
from tests.load.clients import Tally
from tests.load.ending import terminate
from tests.load.harness import ServerProcess, poll
from tests.load.rolling import roll


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server"), *soak.FLAGS) as server:
        yield server


def all_is_well(tally: Tally) -> bool:
    assert not tally.wrong, str(tally)
    return True


@pytest.mark.parametrize("turn", [1, 2])
def test_after_streams_disconnects_bad_requests_and_slow_readers_nothing_is_left(
    server: ServerProcess, turn: int
) -> None:
    tally = soak.soak(server, seconds=2, streams=64, seed=turn)
    assert all_is_well(tally)
    counts = tally.counts
    assert counts["streamed"] and counts["bad request"] and counts["slow"]
    assert counts["left after bytes"] and counts["left after request"]


def test_pages_and_those_who_are_stuck_stop_nobody(server: ServerProcess) -> None:
    everybody = crowd.Crowd(viewers=10)
    tally = asyncio.run(crowd.serve_all(server.port, 2.0, 32, everybody, seed=1))
    assert all_is_well(tally)
    assert tally.counts["batches to viewers"]
    poll(server.is_idle, 60, "idle after the load", server)


@pytest.mark.parametrize("drain", [True, False])
def test_sigterm_under_load_ends_every_stream_in_order(tmp_path: Path, drain: bool) -> None:
    tally = terminate(tmp_path, drain=drain)
    assert all_is_well(tally) and tally.counts["streams"] == 16


@pytest.mark.parametrize("engines", [1, 2])
def test_a_killed_engine_fails_only_its_own_requests_and_comes_back(
    tmp_path: Path, engines: int
) -> None:
    tally = chaos(tmp_path, engines=engines, kills=1, streams=12)
    assert all_is_well(tally) and tally.counts["kills"] == 1


def test_engines_restarted_in_turn_fail_nobody(tmp_path: Path) -> None:
    tally = roll(tmp_path, engines=2, streams=12)
    assert all_is_well(tally) and tally.counts["admin restart"] == 2
