"""64 streams, 30 open pages, one page and one reader that are stuck: is everybody served?

    python -m tests.load.crowd --seconds 20 --streams 64 --viewers 30

Three rounds: the streams alone, with the pages, with those who are stuck as well. Exit status 0 if
all streams ended as they should, ``/health`` answered within a second throughout, no page missed an
event unawares, and those who are stuck cost less than half of what was served without them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.load.clients import Client, Shares, Tally, ask_health
from tests.load.harness import REAL, SCRIPTED, ServerProcess, poll
from tests.load.viewers import stuck_reader, stuck_viewer, watching

HEALTH_S = 1.0
LEAST_SHARE = 0.5
STEP_S = "0.02"
"""As a small model takes; faster, and the pages' batches would be the load."""
GOOD_MANNERS = Shares(leave=0, bad=0, slow=0)
FLAGS = ("--max-model-len", "512", "--num-kv-blocks", "1025")


@dataclass(frozen=True, slots=True)
class Crowd:
    viewers: int = 30
    stuck_viewers: int = 1
    stuck_readers: int = 1


ALONE = Crowd(0, 0, 0)


async def serve_all(
    port: int, seconds: float, streams: int, crowd: Crowd, seed: int, letters: bool = True
) -> Tally:
    tally = Tally()
    stuck = [stuck_viewer(port) for _ in range(crowd.stuck_viewers)]
    stuck += [stuck_reader(port) for _ in range(crowd.stuck_readers)]
    with contextlib.ExitStack() as stack:
        for connection in stuck:
            stack.enter_context(connection)
        async with watching(port, crowd.viewers, tally) as viewers:
            end = time.monotonic() + seconds

            def ended() -> bool:
                return time.monotonic() > end

            clients = [
                Client(port, f"{seed} {number}", tally, GOOD_MANNERS, letters=letters)
                for number in range(streams)
            ]
            await asyncio.gather(
                ask_health(port, tally, ended, 0.1), *(client.until(ended) for client in clients)
            )
            await _all_have_seen_the_end(viewers, tally)
            tally.counts["viewers that lagged and caught up"] = sum(v.lags > 0 for v in viewers)
    return tally


async def _all_have_seen_the_end(viewers: list, tally: Tally) -> None:
    """Nothing is sent any more: all must come to stand at one place."""
    for _ in range(100):
        await asyncio.sleep(0.1)
        if len({tuple(sorted(viewer.seen.items())) for viewer in viewers}) <= 1:
            return
    tally.complain(f"viewers stand at {[dict(viewer.seen) for viewer in viewers]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--viewers", type=int, default=30)
    parser.add_argument("--model", help="run this one instead of the scripted engine")
    parser.add_argument("flags", nargs="*", help="further flags of serve, after --")
    given = parser.parse_args()
    flags = [*FLAGS, *given.flags, *(["--model", given.model] if given.model else [])]
    module, letters = (REAL, False) if given.model else (SCRIPTED, True)
    wrong, done = 0, []
    with tempfile.TemporaryDirectory() as directory:
        with ServerProcess(
            Path(directory), *flags, module=module, MINIVLLM_TEST_STEP_S=STEP_S
        ) as server:
            for crowd in (ALONE, Crowd(given.viewers, 0, 0), Crowd(given.viewers)):
                args = server.port, given.seconds, given.streams, crowd, 1, letters
                tally = asyncio.run(serve_all(*args))
                print(f"{crowd}\n{tally}\n", flush=True)
                poll(server.is_idle, 120, "idle after the load", server)
                wrong += len(tally.wrong) + (tally.slowest_health_s > HEALTH_S)
                done.append(tally.counts["streamed"] + tally.counts["plain"])
            status = server.end()
    alone, with_pages, with_stuck = done
    share = with_stuck / with_pages
    print(f"requests: {alone} alone, {with_pages} with pages, {with_stuck} with the stuck as well")
    print(f"exit status {status}")
    return 1 if wrong or status or share < LEAST_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
