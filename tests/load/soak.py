"""Many streams, some of them badly behaved, for as long as one likes; and then: is nothing left?

    python -m tests.load.soak --seconds 120 --streams 64

Twice on one server. Exit status 0 if no answer was a 5xx, every stream that its client did not cut
off ended with ``[DONE]`` and the right usage, and afterwards nothing runs or waits, every block is
free, and the server holds no more open files than before.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.load.clients import Client, Shares, Tally, ask_health
from tests.load.harness import REAL, SCRIPTED, ServerProcess, poll

QUIET_S = 30.0
"""By when everything that the load has left behind must be gone."""


async def load(
    port: int,
    seconds: float,
    streams: int,
    seed: int = 0,
    shares: Shares = Shares(),  # noqa: B008 - frozen
    letters: bool = True,
) -> Tally:
    """The clients' side of it."""
    tally, end = Tally(), time.monotonic() + seconds

    def ended() -> bool:
        return time.monotonic() > end

    clients = [
        Client(port, f"{seed} {number}", tally, shares, letters=letters)
        for number in range(streams)
    ]
    await asyncio.gather(
        ask_health(port, tally, ended, 0.5), *(client.until(ended) for client in clients)
    )
    return tally


OPENED_ONCE = 4
"""Files that the first load opens for good (two have been seen). A leak is one for each of hundreds
of requests."""


def soak(
    server: ServerProcess, seconds: float, streams: int, seed: int = 0, letters: bool = True
) -> Tally:
    """Load, then quiet. What is left behind is a complaint."""
    poll(server.is_idle, QUIET_S, "idle before the load", server)
    files = server.open_files()
    tally = asyncio.run(load(server.port, seconds, streams, seed, letters=letters))
    for what, holds in (
        ("nothing runs or waits, and every block is free", server.is_idle),
        (f"{files} open files as before", lambda: server.open_files() <= files + OPENED_ONCE),
    ):
        try:
            poll(holds, QUIET_S, what)
        except TimeoutError as error:
            tally.complain(f"{error}: {server.open_files()} files, load {server.load()}")
    if "Traceback" in server.log:
        tally.complain("a traceback in the server's log:\n" + server.log[-3000:])
    return tally


FLAGS = ("--max-model-len", "512", "--num-kv-blocks", "257")
"""Room for 8 requests of the longest: under 64 streams requests wait, and some are preempted."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two rounds")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="run this one instead of the scripted engine")
    parser.add_argument("flags", nargs="*", help="further flags of serve, after --")
    given = parser.parse_args()
    flags = [*FLAGS, *given.flags, *(["--model", given.model] if given.model else [])]
    module = REAL if given.model else SCRIPTED
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        with ServerProcess(Path(directory), *flags, module=module) as server:
            for turn in (1, 2):
                seed = given.seed + turn
                before = server.memory_mb()
                tally = soak(server, given.seconds, given.streams, seed, not given.model)
                print(f"round {turn} of {given.seconds:g} s, seed {seed}\n{tally}")
                threads = server.threads()  # gunicorn keeps those that it has once started
                after = f"{server.memory_mb():.0f} MB, {threads} threads"
                print(f"memory: {before:.0f} → {after}\n", flush=True)
                wrong += len(tally.wrong)
            status = server.end()
            print(f"exit status {status}")
    return 1 if wrong or status else 0


if __name__ == "__main__":
    sys.exit(main())
