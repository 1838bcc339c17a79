"""A rolling upgrade under load: each engine is drained and replaced, and nobody notices.

    python -m tests.load.rolling --engines 2 --rounds 3

Exit status 0 if no request failed, at any time, and each engine is in a new life.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.load.chaos import BACK_S, FLAGS, STEP_S, all_ready, epochs
from tests.load.clients import Client, Shares, Tally, ask_health
from tests.load.harness import ServerProcess, poll

MANNERS = Shares(leave=0.1, bad=0.05, slow=0.05)


async def admin(server: ServerProcess, tally: Tally, verb: str, engine: int) -> None:
    """``minivllm admin VERB ENGINE``, as an operator types it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "minivllm", "admin", verb, str(engine), "--port", str(server.port)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), BACK_S)
    tally.counts[f"admin {verb}"] += 1
    if process.returncode:
        tally.complain(f"admin {verb} {engine}: {process.returncode} {said.decode()}")


def roll(
    directory: Path, *flags: str, engines: int = 2, rounds: int = 1, streams: int = 32
) -> Tally:
    """One server from its start to its end."""
    tally = Tally()
    flags = *FLAGS, "--data-parallel-size", str(engines), *flags
    with ServerProcess(directory, *flags, MINIVLLM_TEST_STEP_S=STEP_S) as server:
        poll(lambda: all_ready(server, engines), BACK_S, "all engines ready", server)
        over = False

        async def go() -> None:
            nonlocal over
            clients = [Client(server.port, f"{n}", tally, MANNERS) for n in range(streams)]
            load = asyncio.gather(
                ask_health(server.port, tally, lambda: over, 0.1),
                *(client.until(lambda: over) for client in clients),
            )
            try:
                for engine in [*range(engines)] * rounds:
                    # Step by step, or all in one: a restart drains and resumes by itself.
                    for verb in ("restart",) if engine else ("drain", "restart", "resume"):
                        await admin(server, tally, verb, engine)
                    what = f"engine {engine} is back"
                    ready = lambda: all_ready(server, engines)  # noqa: E731
                    await asyncio.to_thread(poll, ready, BACK_S, what, server)
            finally:
                over = True
                await load

        before = epochs(server)
        asyncio.run(go())
        if epochs(server) != [epoch + rounds for epoch in before]:
            tally.complain(f"epochs were {before} and are {epochs(server)}")
        if set(tally.counts) & {"/health 503", "/health hung", "/health refused"}:
            tally.complain("/health was not 200 throughout")
        poll(server.is_idle, 30, "nothing runs, every block is free", server)
        if status := server.end():
            tally.complain(f"exit status {status}:\n{server.log[-3000:]}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("flags", nargs="*", help="further flags of serve, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        counts = {"engines": given.engines, "rounds": given.rounds, "streams": given.streams}
        tally = roll(Path(directory), *given.flags, **counts)
    print(tally)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
