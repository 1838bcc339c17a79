"""``kill -9`` of engines under load: who is hurt, and is everything back afterwards?

    python -m tests.load.chaos --engines 2 --kills 5

Exit status 0 if a request failed only when the engine that had it was killed, and then in order
(500 or 503 with OpenAI's error, or an error frame and ``[DONE]``); with one engine requests are
refused while it is away. Afterwards all engines are there again, nothing hangs, nothing runs, no
zombie is left, and after the end no process and no socket file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from minivllm.trace.file import read_trace
from tests.load.clients import (
    Client,
    Shares,
    Tally,
    ask_health,
    refused_in_order,
    said_it_is_over,
)
from tests.load.harness import ServerProcess, poll
from tests.load.wire import Answer

FLAGS = ("--max-model-len", "512", "--num-kv-blocks", "513")
STEP_S = "0.01"  # as a small model takes
MANNERS = Shares(leave=0.1, bad=0.0, slow=0.05)
BACK_S = 60.0
"""By when a killed engine must be there again: its process starts anew, with back-off."""


def may_fail(answer: Answer) -> bool:
    return said_it_is_over(answer) or refused_in_order(answer)


def all_ready(server: ServerProcess, engines: int) -> bool:
    states = [engine["state"] for engine in server.load()["engines"]]
    return states == ["ready"] * engines and server.status("/health") == 200


def epochs(server: ServerProcess) -> list[int]:
    """Which life of each engine this is."""
    return [engine["epoch"] for engine in server.load()["engines"]]


async def kill_some(
    server: ServerProcess, tally: Tally, engines: int, kills: int, rng: random.Random
) -> list[int]:
    """Kill engines one by one, each when all are there; their pids."""
    killed = []
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.5, 1.5))
        killed.append(rng.choice(server.engine_pids()))
        await asyncio.to_thread(kill, server, tally, engines, killed[-1])
    return killed


def kill(server: ServerProcess, tally: Tally, engines: int, pid: int) -> None:
    """Kill one and wait until all are there again."""
    lives = sum(epochs(server))
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def is_noticed() -> bool:
        states = {engine["state"] for engine in server.load()["engines"]}
        return states != {"ready"} or sum(epochs(server)) > lives

    def is_back() -> bool:
        return all_ready(server, engines) and sum(epochs(server)) > lives

    poll(is_noticed, 10.0, "the death is noticed", server)
    noticed = time.monotonic() - begin
    poll(is_back, BACK_S, "all engines are back", server)
    back = time.monotonic() - begin
    print(f"killed {pid}: noticed after {noticed:.2f} s, back after {back:.2f} s", flush=True)
    tally.counts["kills"] += 1
    tally.counts["kills noticed within 1 s"] += noticed <= 1.0


def chaos(
    directory: Path, *flags: str, engines: int, kills: int = 2, streams: int = 32, seed: int = 0
) -> Tally:
    """One server from its start to its end."""
    tally, trace = Tally(), directory / "chaos.trace.jsonl"
    told = ("--data-parallel-size", str(engines), "--trace", str(trace))
    with ServerProcess(directory, *FLAGS, *told, *flags, MINIVLLM_TEST_STEP_S=STEP_S) as server:
        poll(lambda: all_ready(server, engines), BACK_S, "all engines ready", server)
        over = False
        clients = [
            Client(server.port, f"{seed} {number}", tally, MANNERS, may_fail=may_fail)
            for number in range(streams)
        ]

        async def go() -> list[int]:
            nonlocal over
            load = asyncio.gather(
                ask_health(server.port, tally, lambda: over, 0.1),
                *(client.until(lambda: over) for client in clients),
            )
            try:
                return await kill_some(server, tally, engines, kills, random.Random(seed))
            finally:
                over = True
                await load

        killed = asyncio.run(go())
        poll(server.is_idle, 30, "nothing runs, every block is free", server)
        if server.zombies():
            tally.complain(f"zombies: {server.zombies()}")
        if left := [pid for pid in killed if pid in server.children()]:
            tally.complain(f"killed and still there: {left}")
        if len(server.engine_pids()) != engines:
            tally.complain(f"{len(server.engine_pids())} engine processes for {engines}")
        status = server.end()
        if status:
            tally.complain(f"exit status {status}:\n{server.log[-3000:]}")
        if server.sockets():
            tally.complain(f"socket files are left: {server.sockets()}")
    failed = [name for client in clients for name in client.failed]
    hurt(trace, tally, killed, failed, one=engines == 1)
    return tally


def hurt(trace: Path, tally: Tally, killed: list[int], failed: list[str], one: bool) -> None:
    """Was each failed request with an engine that was killed? The trace knows who had it."""
    events = read_trace(trace).events
    lives: dict[int, int] = {}  # engine → pid, as the events go by
    had: dict[str, set[int]] = defaultdict(set)  # client's id → pids that had it
    for event in events:
        if event.kind == "engine.start":
            lives[event.data.engine] = event.data.pid
        elif event.kind == "route.pick":
            if found := re.search(r"cmpl-(c[\d.]+)-", event.data.request_id):
                had[found[1]].add(lives[event.data.engine])
    for name in failed:
        if name not in had and one:
            continue  # refused while there was no engine
        if not had[name] & set(killed):
            tally.complain(f"{name} failed, though it was with {had[name]} and {killed} died")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="further flags of serve, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tally = chaos(
            Path(directory),
            *given.flags,
            engines=given.engines,
            kills=given.kills,
            streams=given.streams,
            seed=given.seed,
        )
    print(tally)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
