"""Which request has which hue, for terminal and page alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from minivllm.trace.hues import Hues


def test_hues_go_to_the_lowest_that_no_living_request_holds() -> None:
    hues = Hues()

    def see(kind: str, req: str) -> None:
        event: Any = SimpleNamespace(kind=kind, req=req)
        hues.see([event])

    for i in range(1, 10):
        see("req.arrive", f"r{i}")
    assert [hues.of[f"r{i}"] for i in range(1, 10)] == [0, 1, 2, 3, 4, 5, 6, 7, -1]
    see("req.finish", "r3")
    see("req.finish", "r9")
    see("req.arrive", "r10")
    see("req.arrive", "r11")
    assert (hues.of["r3"], hues.of["r10"], hues.of["r11"]) == (2, 2, -1)
