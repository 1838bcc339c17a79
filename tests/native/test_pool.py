"""The threads of the compiled code: each piece of work is done once, and nobody waits in vain."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from minivllm.native import build

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@pytest.fixture(scope="module")
def run_items() -> Callable[..., None]:
    found = build.library()
    assert found is not None, "they could not be compiled; see the log of minivllm.native"
    function = found.run_items
    function.argtypes, function.restype = (
        [WORK, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int],
        None,
    )
    return lambda work, items, threads: function(WORK(work), None, items, threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 200])
def test_every_item_is_done_once_before_the_call_returns(
    run_items: Callable[..., None], items: int, threads: int
) -> None:
    for _ in range(20):
        done: list[int] = []
        run_items(lambda _what, item, done=done: done.append(item), items, threads)
        assert Counter(done) == Counter(range(items))


def test_helpers_are_waited_for_and_alone_the_highest_comes_first(
    run_items: Callable[..., None],
) -> None:
    order: list[int] = []
    run_items(lambda _what, item: order.append(item), 9, 1)
    assert order == list(range(8, -1, -1))
    slow: list[int] = []

    def sleep_then_say(_what: object, item: int) -> None:
        time.sleep(0.01 * (item == 0 or threading.get_ident() != caller))
        slow.append(item)

    caller = threading.get_ident()
    for _ in range(5):
        slow.clear()
        run_items(sleep_then_say, 2, 2)
        assert sorted(slow) == [0, 1], "the call returned while a helper was at work"
    both = threading.Barrier(2, timeout=60)  # passed by two threads or none
    run_items(lambda _what, _item: both.wait(), 2, 2)
    assert not both.broken


def test_who_comes_while_the_helpers_are_busy_does_the_work_alone(
    run_items: Callable[..., None],
) -> None:
    """A piece that starts a job of its own, and callers side by side."""
    inner: list[int] = []
    run_items(lambda _what, _item: run_items(lambda _w, item: inner.append(item), 5, 3), 4, 3)
    assert Counter(inner) == Counter(dict.fromkeys(range(5), 4))
    done: list[list[int]] = [[] for _ in range(4)]

    def call(mine: list[int]) -> None:
        for _ in range(20):
            run_items(lambda _what, item: mine.append(item), 30, 3)

    callers = [threading.Thread(target=call, args=(mine,)) for mine in done]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert all(Counter(mine) == Counter(dict.fromkeys(range(30), 20)) for mine in done)


def test_a_forked_process_does_not_wait_for_its_parents_helpers(
    run_items: Callable[..., None],
) -> None:
    run_items(lambda _what, _item: None, 10, 3)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        run_items(lambda _what, item: done.append(item), 10, 3)
        os._exit(0 if sorted(done) == list(range(10)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_process_has_helpers_of_its_own(run_items: Callable[..., None]) -> None:
    """More than its parent had, too."""
    run_items(lambda _what, _item: None, 50, 2)
    child = os.fork()
    if child == 0:
        both = threading.Barrier(2, timeout=30)
        run_items(lambda _what, _item: both.wait(), 2, 6)  # passed by two threads or none
        os._exit(3 if both.broken else 0)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done[0] == child and os.waitstatus_to_exitcode(done[1]) == 0
