"""The waiting queue, and with it the policy: who is looked at first, and who gives way.

Counterpart in vLLM: ``vllm/v1/core/sched/request_queue.py``; there the scheduler picks the victim.
Here one order answers both questions, so it stands in one place. ``add`` says at which place a
request now stands, since the trace tells it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from minivllm.request import Request


class RequestQueue(ABC):
    """Requests that wait, the head first."""

    _requests: deque[Request] | list[Request]

    @abstractmethod
    def add(self, request: Request) -> int:
        """A request arrives; returns its position (0 = head)."""

    @abstractmethod
    def put_back(self, request: Request) -> int:
        """A preempted request returns; returns its position."""

    @abstractmethod
    def victim(self, running: Sequence[Request]) -> Request:
        """Which of the running requests gives way when one of them finds no block: the last in
        this policy's order. It may be the one that asked."""

    def line_up(self, requests: Iterable[Request]) -> RequestQueue:
        """All of them, as if they arrived now, one after the other; returns the queue."""
        for request in sorted(requests, key=lambda request: request.ordinal):
            self.add(request)
        return self

    def peek(self, position: int = 0) -> Request:
        """The request at ``position`` (0 = head)."""
        return self._requests[position]

    def remove(self, request: Request) -> None:
        self._requests.remove(request)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)


class FCFSQueue(RequestQueue):
    """First come, first served. A preempted request returns to the head; the last to be
    admitted gives way."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def add(self, request: Request) -> int:
        self._requests.append(request)
        return len(self._requests) - 1

    def put_back(self, request: Request) -> int:
        self._requests.appendleft(request)
        return 0

    def victim(self, running: Sequence[Request]) -> Request:
        return running[-1]


class PriorityQueue(RequestQueue):
    """By :meth:`order`. The running request that is last in this order gives way.

    A sorted list rather than vLLM's heap: the trace and the page show the whole order.
    """

    def __init__(self) -> None:
        self._requests: list[Request] = []

    @staticmethod
    def order(request: Request) -> tuple[int, int]:
        """Smaller comes first: the caller's priority, then the order of arrival."""
        return (request.priority, request.ordinal)

    def add(self, request: Request) -> int:
        insort(self._requests, request, key=self.order)
        return self._requests.index(request)

    def put_back(self, request: Request) -> int:
        return self.add(request)

    def victim(self, running: Sequence[Request]) -> Request:
        return max(running, key=self.order)


QUEUES: dict[str, Callable[[], RequestQueue]] = {"fcfs": FCFSQueue, "priority": PriorityQueue}
