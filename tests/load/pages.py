"""What thirty open pages cost the server: its own CPU per request, and requests in a given time.

    python -m tests.load.pages --seconds 10 --viewers 30
    python -m tests.load.pages --tree ../before --tree .     two checkouts by turns, in one run

The pages are in a process of their own, as they are on other machines in earnest; what they cost
there is not the server's. Printed for each tree: the ratio of its streams with the pages to its
streams without, and how much more of the server's CPU a request takes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.conftest import ROOT
from tests.load.clients import Client, Tally
from tests.load.crowd import FLAGS, GOOD_MANNERS, STEP_S
from tests.load.harness import ServerProcess, poll
from tests.load.viewers import watching


@dataclass(frozen=True, slots=True)
class Cost:
    requests: int
    cpu_s: float
    """Of the serving process and its children."""

    @property
    def ms_per_request(self) -> float:
        return 1e3 * self.cpu_s / max(self.requests, 1)


def watch(port: int, viewers: int, opened: Event, end: Event) -> None:
    async def until_end() -> None:
        async with watching(port, viewers, Tally()):
            opened.set()
            while not end.is_set():
                await asyncio.sleep(0.1)

    asyncio.run(until_end())


def measure(server: ServerProcess, seconds: float, streams: int, viewers: int) -> Cost:
    opened, end = multiprocessing.Event(), multiprocessing.Event()
    pages = multiprocessing.Process(target=watch, args=(server.port, viewers, opened, end))
    if viewers:
        pages.start()
        opened.wait(60)
    tally, began = Tally(), cpu_of(server)
    asyncio.run(_stream(server.port, seconds, streams, tally))
    spent = cpu_of(server) - began
    if viewers:
        end.set()
        pages.join(30)
    assert not tally.wrong, tally
    return Cost(tally.counts["streamed"] + tally.counts["plain"], spent)


async def _stream(port: int, seconds: float, streams: int, tally: Tally) -> None:
    until = time.monotonic() + seconds
    clients = [Client(port, str(n), tally, GOOD_MANNERS, letters=True) for n in range(streams)]
    await asyncio.gather(*(client.until(lambda: time.monotonic() > until) for client in clients))


def cpu_of(server: ServerProcess) -> float:
    ticks = 0
    for pid in [server.process.pid, *server.children()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=2, help="by turns, of each tree")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--viewers", type=int, default=30)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout; default: this one")
    given = parser.parse_args()
    trees = given.tree or [ROOT]
    costs: dict[Path, list[tuple[Cost, Cost]]] = {tree: [] for tree in trees}
    for _ in range(given.rounds):
        for tree in trees:
            with tempfile.TemporaryDirectory() as directory:
                where = {"root": tree.resolve(), "MINIVLLM_TEST_STEP_S": STEP_S}
                with ServerProcess(Path(directory), *FLAGS, **where) as server:
                    alone = measure(server, given.seconds, given.streams, 0)
                    poll(server.is_idle, 60, "idle", server)
                    pages = measure(server, given.seconds, given.streams, given.viewers)
                    costs[tree].append((alone, pages))
                    server.end()
    for tree, pairs in costs.items():
        alone, pages = (
            Cost(sum(pair[i].requests for pair in pairs), sum(pair[i].cpu_s for pair in pairs))
            for i in (0, 1)
        )
        print(
            f"{tree}: {alone.requests} requests alone, {pages.requests} with {given.viewers} pages "
            f"({pages.requests / alone.requests:.0%}); server CPU per request "
            f"{alone.ms_per_request:.0f} and {pages.ms_per_request:.0f} ms"
        )


if __name__ == "__main__":
    main()
