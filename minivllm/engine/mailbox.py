"""OutputMailbox: where the output thread leaves what a waiting caller will pick up.

One mailbox serves one call, which may be several requests (a list of prompts). A reader that is
slower than the engine finds the newer outputs merged into the older, so a mailbox holds at most
one output a request, and a slow reader slows nobody.

Counterpart in vLLM: ``RequestOutputCollector`` in ``vllm/v1/engine/output_processor.py``. That
one belongs to one asyncio loop; this one also wakes plain threads, which Flask's are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

from minivllm.outputs import OutputKind, RequestOutput
from minivllm.trace.events import Reason


class OutputMailbox:
    """Filled on the output thread, emptied by one reader: a thread, or a task of ``loop``."""

    def __init__(
        self, kind: OutputKind, open_ids: set[str], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.loop = loop
        self._kind = kind
        self._open = open_ids
        self._outputs: dict[str, RequestOutput] = {}
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._thread_event = threading.Event()
        self._task_event = asyncio.Event()

    # --- the output thread's side ---------------------------------------------------------------

    def put(self, output: RequestOutput) -> None:
        with self._lock:
            older = self._outputs.get(output.request_id)
            if older is None:
                self._outputs[output.request_id] = output
            else:
                older.merge(output, self._kind)
            if output.finished:
                self._open.discard(output.request_id)
            self._thread_event.set()

    def put_error(self, error: Exception) -> None:
        """End the reader's wait with an error, after what lies there already."""
        with self._lock:
            self._error = error
            self._thread_event.set()

    def wake_task(self) -> None:
        """Only on ``loop``: once a step for all its mailboxes, since crossing over is dear."""
        self._task_event.set()

    # --- the reader's side -----------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Nothing lies here and nothing more will come."""
        with self._lock:
            return not self._outputs and not self._open and self._error is None

    def open_ids(self) -> list[str]:
        """The requests whose last output has not come. Their names are nobody else's yet."""
        with self._lock:
            return list(self._open)

    def take(self) -> list[RequestOutput]:
        """All that lies here, oldest request first. Raises the error once nothing else does."""
        with self._lock:
            self._thread_event.clear()
            self._task_event.clear()
            taken, self._outputs = list(self._outputs.values()), {}
            if not taken and self._error is not None:
                raise self._error
            if self._error is not None:
                self._thread_event.set()  # the next take() raises it, without a wait
                self._task_event.set()
            return taken

    def wait(self, timeout: float | None) -> bool:
        """Block this thread until something lies here; False after ``timeout`` seconds."""
        return self._thread_event.wait(timeout)

    async def wait_async(self) -> None:
        await self._task_event.wait()


class Mailboxes:
    """Those of all open requests, by the caller's names. Not thread-safe: AsyncLLM's lock guards
    them."""

    def __init__(self) -> None:
        self._of: dict[str, OutputMailbox] = {}

    def add(self, request_id: str, mailbox: OutputMailbox) -> None:
        self._of[request_id] = mailbox

    def forget(self, request_id: str) -> None:
        self._of.pop(request_id, None)

    def post(self, outputs: list[RequestOutput]) -> None:
        """Each into its mailbox, then wake each loop once."""
        filled = []
        for output in outputs:
            mailbox = self._of.get(output.request_id)
            if mailbox is None:
                continue
            mailbox.put(output)
            filled.append(mailbox)
            if output.finished:
                del self._of[output.request_id]
        _wake_loops(filled)

    def end_all(self, make_error: Callable[[], Exception]) -> None:
        """By an error of its own for each: a reader raises it."""
        ended = list(self._of.values())
        self._of.clear()
        for mailbox in ended:
            mailbox.put_error(make_error())
        _wake_loops(ended)


def _wake_loops(mailboxes: list[OutputMailbox]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[OutputMailbox]] = {}
    for mailbox in mailboxes:
        if mailbox.loop is not None:
            by_loop.setdefault(mailbox.loop, []).append(mailbox)
    for loop, its_own in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: its tasks are gone
            loop.call_soon_threadsafe(_wake_tasks, its_own)


def _wake_tasks(mailboxes: list[OutputMailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.wake_task()


class OutputStream(Iterator["RequestOutput | None"]):
    """The outputs of one call, for a thread; None is a tick (see ``AsyncLLM.stream``).

    :meth:`close` aborts what has not finished; a stream that is dropped unread must be closed.
    """

    def __init__(
        self,
        request_ids: list[str],
        mailbox: OutputMailbox,
        abort: Callable[[list[str], Reason], None],
        tick_s: float | None,
    ) -> None:
        self.request_ids = request_ids
        """In the order of the prompts."""
        self._mailbox = mailbox
        self._abort = abort
        self._tick_s = tick_s
        self._taken: list[RequestOutput] = []

    def __next__(self) -> RequestOutput | None:
        while not self._taken:
            if self._mailbox.done:
                raise StopIteration
            if not self._mailbox.wait(self._tick_s):
                return None
            self._taken = self._mailbox.take()
        return self._taken.pop(0)

    def close(self, why: Reason = Reason.CLIENT) -> None:
        """May be called at any time, more than once, and after the end."""
        self._abort(self._mailbox.open_ids(), why)

    def __enter__(self) -> OutputStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
