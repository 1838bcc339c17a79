"""``bench serve``: requests by a plan against any OpenAI-compatible endpoint, one asyncio process.

    serve_data.py      what is asked for, and when
    serve_client.py    one request: what came in when
    serve.py           all of them: the plan is kept, whatever the server does
    serve_metrics.py   the numbers
    serve_svg.py       the picture

Two kinds of load. With a rate the plan is fixed before the run and latency counts from it, so a
server that falls behind is charged for the wait (an open loop). Without, ``max_concurrency``
clients each send their next request when the last one has ended (a closed loop): that finds the
throughput, not the latency that users would see. Counterpart in vLLM: ``vllm/benchmarks/serve.py``.
Left out: ramps of the rate, profiling, embeddings, LoRA.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minivllm.bench.serve_client import Endpoint, request
from minivllm.bench.serve_data import Ask
from minivllm.bench.serve_metrics import INTERRUPTED, Failure, Record
from minivllm.errors import EndpointError, MissingExtraError

if TYPE_CHECKING:
    import aiohttp

KEEP_ALIVE_S = 1.0
"""How long an idle connection is used again: less than servers keep one (gunicorn: 2 s), or now
and then a request would meet a connection that is just being closed."""


@dataclass(frozen=True, slots=True)
class Load:
    """All there is to send."""

    asks: list[Ask]
    arrivals: list[float] | None = None
    """Planned starts in seconds, ascending; None: as soon as a slot is free."""
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    records: list[Record]
    """Of the requests whose turn came, in order."""
    duration: float
    interrupted: bool


def connect() -> aiohttp.ClientSession:
    """Raises MissingExtraError without the extra ``bench``."""
    try:
        import aiohttp
    except ImportError as error:
        raise MissingExtraError(
            f"bench serve needs a client ({error.name} is not installed): "
            "pip install 'minivllm[bench]'"
        ) from error
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


async def run(
    endpoint: Endpoint,
    load: Load,
    stop: asyncio.Event,
    on_end: Callable[[Record], None] = lambda record: None,
) -> Outcome:
    """Send everything and wait for it, or until ``stop``; then what is under way is cut off."""
    gate = asyncio.Semaphore(load.max_concurrency or len(load.asks))
    records: list[Record] = []
    tasks: list[asyncio.Task[None]] = []
    async with connect() as session:
        begin = time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - begin

        async def one(ask: Ask, record: Record) -> None:
            try:
                await request(session, endpoint, ask, record, clock)
            finally:
                gate.release()
            on_end(record)

        async def when_there_is_room(ask: Ask, record: Record) -> None:
            await gate.acquire()
            await one(ask, record)

        async def follow_the_plan() -> None:
            for index, ask in enumerate(load.asks):
                if load.arrivals is None:
                    await gate.acquire()
                    records.append(Record(index, planned=clock()))
                    coroutine = one(ask, records[-1])
                else:
                    await asyncio.sleep(load.arrivals[index] - clock())
                    records.append(Record(index, planned=load.arrivals[index]))
                    coroutine = when_there_is_room(ask, records[-1])
                tasks.append(asyncio.create_task(coroutine))
            await asyncio.gather(*tasks)

        plan = asyncio.create_task(follow_the_plan())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((plan, stopped), return_when=asyncio.FIRST_COMPLETED)
        interrupted = not plan.done()
        duration = clock()
        for task in (plan, stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await plan  # raises what it met with
    for record in records:
        if record.end is None:
            record.failure = Failure(INTERRUPTED, "by Ctrl-C")
    return Outcome(records, duration, interrupted)


async def first_model(base_url: str, headers: dict[str, str]) -> str:
    """The name of the first model that the server lists. Raises EndpointError."""
    url = f"{base_url}/v1/models"
    remedy = "name one with --model, or look whether the server runs"
    async with connect() as session:
        import aiohttp

        try:
            async with session.get(
                url, headers=headers, timeout=aiohttp.ClientTimeout(total=30)
            ) as response:
                if response.status != 200:
                    raise EndpointError(f"{url} answers {response.status}: {remedy}")
                listed: Any = await response.json(content_type=None)
                return str(listed["data"][0]["id"])
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise EndpointError(f"{url} cannot be reached ({error}): {remedy}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EndpointError(f"{url} lists no model: {remedy}") from error
