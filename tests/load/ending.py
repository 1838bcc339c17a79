"""SIGTERM under load: who is being served is served to the end, or told that it is over.

    python -m tests.load.ending

With ``--shutdown-timeout 30`` every stream ends with all its tokens, with 0 each ends with an error
and ``[DONE]``; both times nobody new is let in, the exit status is 0, and no process and no socket
file is left.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.load.clients import Asked, Tally, faults, said_it_is_over
from tests.load.harness import END_S, ServerProcess, state_of
from tests.load.viewers import stuck_viewer, watching
from tests.load.wire import Answer, exchange

FLAGS = ("--max-model-len", "512", "--num-kv-blocks", "1025")
STEP_S = "0.01"  # so that 200 tokens take two seconds: all are under way when the signal comes


async def streams_and_then(
    port: int, n: int, tokens: int, act: Callable[[], Awaitable[None]]
) -> list[tuple[Asked, Answer]]:
    """Open ``n`` streams, ``act`` once each has said something, and read them to their end."""
    begun = [asyncio.Event() for _ in range(n)]
    rng = random.Random(n)
    asked = [Asked(i % 2 == 0, True, "x" * rng.randint(1, 40), tokens) for i in range(n)]

    async def one(ask: Asked, event: asyncio.Event) -> Answer:
        return await exchange(
            port, "POST", ask.path, ask.body(), on_event=lambda _: event.set(), timeout_s=60
        )

    tasks = [asyncio.create_task(one(*pair)) for pair in zip(asked, begun, strict=True)]
    await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), 60)
    await act()
    return list(zip(asked, await asyncio.gather(*tasks), strict=True))


def terminate(
    directory: Path,
    *flags: str,
    drain: bool,
    streams: int = 16,
    viewers: int = 3,
    tokens: int = 200,
) -> Tally:
    """One server, from start to end."""
    tally = Tally()
    told = ("--shutdown-timeout", "30" if drain else "0")
    with ServerProcess(directory, *FLAGS, *told, *flags, MINIVLLM_TEST_STEP_S=STEP_S) as server:
        children = server.children()

        async def go() -> list[tuple[Asked, Answer]]:
            async with watching(server.port, viewers, tally):

                async def act() -> None:
                    server.process.send_signal(signal.SIGTERM)
                    await asyncio.sleep(0.5)
                    late = Asked(False, True, "late", 4)
                    answer = await exchange(server.port, "POST", late.path, late.body())
                    if answer.fault not in ("refused", "lost") and answer.status != 503:
                        tally.complain(f"a new request after SIGTERM: {answer.status}")

                with stuck_viewer(server.port):
                    return await streams_and_then(server.port, streams, tokens, act)

        for asked, answer in asyncio.run(go()):
            tally.counts["streams"] += 1
            wrong = faults(asked, answer) if drain else not said_it_is_over(answer)
            if wrong:
                last = answer.events[-1:]
                tally.complain(f"{asked}: {wrong} → {answer.status} {answer.fault} {last}")
        begin = time.monotonic()
        status = server.process.wait(END_S)
        tally.counts[f"exit status {status}"] += 1
        if status != 0:
            tally.complain(f"exit status {status}:\n{server.log[-3000:]}")
        if time.monotonic() - begin > 10:
            tally.complain(f"it ended {time.monotonic() - begin:.1f} s after its last stream")
        if left := [pid for pid in children if state_of(pid) is not None]:
            tally.complain(f"processes are left: {left}")
        if left_files := server.sockets():
            tally.complain(f"socket files are left: {left_files}")
        if "Traceback" in server.log:
            tally.complain("a traceback in the server's log:\n" + server.log[-3000:])
    return tally


def main() -> int:
    wrong = 0
    for drain in (True, False):
        with tempfile.TemporaryDirectory() as directory:
            tally = terminate(Path(directory), *sys.argv[1:], drain=drain, streams=64, viewers=30)
        print(f"{'drain' if drain else 'abort'}\n{tally}\n", flush=True)
        wrong += len(tally.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
