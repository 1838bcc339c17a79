"""The waiting queue: who stands where, who gives way."""

from __future__ import annotations

from minivllm.core.request_queue import QUEUES, FCFSQueue, PriorityQueue, RequestQueue
from minivllm.request import Request
from tests.core.builders import request


def filled(queue: RequestQueue, *priorities: int) -> list[Request]:
    """Add r1, r2, … with these priorities."""
    requests = [request(i, 1, priority=p) for i, p in enumerate(priorities, start=1)]
    for one in requests:
        queue.add(one)
    return requests


def names(queue: RequestQueue) -> list[str]:
    return [one.req_id for one in queue]


def test_fcfs_keeps_the_order_of_arrival() -> None:
    queue = FCFSQueue()
    filled(queue, 5, 1, 3)
    assert names(queue) == ["r1", "r2", "r3"] and len(queue) == 3
    assert [queue.peek().req_id, queue.peek(1).req_id] == ["r1", "r2"]
    queue.remove(queue.peek())
    assert names(queue) == ["r2", "r3"]


def test_fcfs_says_at_which_place_a_request_stands() -> None:
    queue = FCFSQueue()
    assert [queue.add(request(i, 1)) for i in (1, 2, 3)] == [0, 1, 2]
    assert queue.put_back(request(4, 1)) == 0
    assert names(queue) == ["r4", "r1", "r2", "r3"]


def test_fcfs_sacrifices_whom_it_admitted_last() -> None:
    running = [request(2, 1, priority=9), request(1, 1), request(3, 1)]
    assert FCFSQueue().victim(running).req_id == "r3"


def test_priority_serves_the_smallest_number_and_then_the_oldest() -> None:
    queue = PriorityQueue()
    filled(queue, 2, 0, 2, 1, 0)
    assert names(queue) == ["r2", "r5", "r4", "r1", "r3"]
    assert [queue.peek().req_id, queue.peek(4).req_id] == ["r2", "r3"]


def test_priority_says_at_which_place_a_request_stands() -> None:
    queue = PriorityQueue()
    assert [queue.add(request(i, 1, priority=p)) for i, p in ((1, 1), (2, 1), (3, 0), (4, 2))] == [
        0,
        1,
        0,
        3,
    ]


def test_priority_returns_a_preempted_request_to_its_own_place() -> None:
    queue = PriorityQueue()
    filled(queue, 0, 1, 2)
    assert queue.put_back(request(4, 1, priority=1)) == 2
    assert queue.put_back(request(0, 1, priority=1)) == 1
    assert names(queue) == ["r1", "r0", "r2", "r4", "r3"]


def test_priority_sacrifices_the_largest_number_and_then_the_youngest() -> None:
    running = [request(4, 1, priority=2), request(1, 1, priority=2), request(9, 1, priority=1)]
    assert PriorityQueue().victim(running).req_id == "r4"


def test_any_place_can_be_left() -> None:
    for make in QUEUES.values():
        queue = make()
        requests = filled(queue, 0, 0, 0)
        queue.remove(requests[1])
        assert names(queue) == ["r1", "r3"]
