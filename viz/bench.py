"""The page's benchmark: how long its JavaScript takes, in headless Chromium on this machine.

    python -m viz.bench
    python -m viz.bench --view pool --view timeline --rounds 100

fold    50,000 events taken in, from the parsed trace to the last state       budget 500 ms
seek    a step anywhere in that run: its state, and the Board drawn           budget p95 50 ms
draw    the next step with 10,000 blocks and 256 requests, on a view          budget p95 8 ms

What the browser does behind its JavaScript (layout, paint) is not in it. Exit status 1: one of the
budgets was not kept. Needs the extra ``dev`` (Playwright) and a Chromium on the PATH.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from viz.screenshot import FLAGS, find_browser
from viz.server import Server, create_app
from viz.stress import MANY_EVENTS, write

BUDGETS = {"fold": 500.0, "seek": 50.0, "draw": 8.0}
"""Milliseconds; of ``seek`` and ``draw`` the 95th percentile."""

# Each answers with a function that does one round; the numbers of the rounds go from 0 on.
FOLD = """async (events) => {
  const { TraceStore } = await import("#core/store.js");
  const { steps } = __viz.board.store;
  const list = [...steps.values()].flatMap((step) => step.events).slice(0, events);
  window.round = () => new TraceStore().ingest(list);
  return list.length;
}"""

SEEK = """() => {
  const { board } = __viz;
  window.round = (i) => board.travel.seek(1 + ((i * 7919) % board.lastStep));
}"""

# Steps in which all run, over and over: each has other tokens, blocks and marks. Their states are
# known by then: what it takes to make them is in `seek`.
DRAW = """(view) => {
  const { board } = __viz;
  const [from, to] = [8, 20];
  board.frame.show(view);
  board.travel.seek(from);
  for (let k = from; k <= to; k += 1) board.store.stateAfter(k);
  window.round = (i) => {
    board.travel.seek(from + (i % (to - from + 1)));
  };
  const { running, pool } = board.scene();
  return [running.length, pool.total];
}"""


def main(
    view: Annotated[list[str] | None, typer.Option(help="Views to draw; else all.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each is done.")] = 60,
) -> None:
    """Measure and print; the last line says whether all budgets were kept."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        runs = [write(name, Path(folder)) for name in ("many-events", "crowd")]
        server = Server(create_app(runs), port=0).start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
                kept = _measure(browser, server.url, view, rounds)
                version = browser.version
                browser.close()
        finally:
            server.stop()
    print(f"{date.today()}, Chromium {version}, {platform.machine()}, {_processor()}")
    sys.exit(0 if kept else 1)


def _measure(browser: Any, url: str, views: list[str] | None, rounds: int) -> bool:
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    clock = ScriptClock(page)
    _open(page, url, "many-events")
    events = page.evaluate(FOLD, MANY_EVENTS)
    kept = [_tell("fold", f"{events:,} events", clock.rounds(7), median=True)]
    page.evaluate(SEEK)
    kept.append(_tell("seek", "anywhere in that run", clock.rounds(2 * rounds)))
    _open(page, url, "crowd")
    for name in views or page.evaluate("__viz.board.frame.views.map(({ id }) => id)"):
        running, blocks = page.evaluate(DRAW, name)
        about = f"{name}: {running} requests, {blocks:,} blocks"
        kept.append(_tell("draw", about, clock.rounds(rounds)))
    return all(kept)


IN_A_TASK = "i => new Promise((go) => setTimeout(() => { round(i); go(); }))"
"""What is evaluated directly is not counted as a script."""


class ScriptClock:
    """Milliseconds that the page's thread spends in JavaScript: processor time, so that other
    programs on the machine do not count."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def rounds(self, count: int) -> list[float]:
        """``round(i)`` of the page, timed one by one; the first two only warm up."""
        times = []
        for i in range(count + 2):
            before = self._now()
            self._page.evaluate(IN_A_TASK, i)
            times.append(self._now() - before)
            self._page.evaluate("() => new Promise((go) => requestAnimationFrame(() => go()))")
        return times[2:]

    def _now(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(m["value"] for m in metrics if m["name"] == "ScriptDuration")


def _open(page: Any, url: str, run: str) -> None:
    page.add_init_script("localStorage.setItem('minivllm.tour', 'seen')")
    page.goto("about:blank")
    page.goto(f"{url}#/run/{run}/step/1")
    page.wait_for_function(
        "() => { const b = window.__viz?.board; return b?.store?.config && !b.wanted"
        " && b.lives.some((life) => b.store.seq >= life.head); }",
        timeout=120_000,
    )


def _tell(budget: str, about: str, times: list[float], median: bool = False) -> bool:
    times = sorted(times)
    middle = times[len(times) // 2]
    p95 = times[min(int(len(times) * 0.95), len(times) - 1)]
    counts, allowed = middle if median else p95, BUDGETS[budget]
    print(
        f"{budget}  {about:44} median {middle:7.1f} ms   p95 {p95:7.1f} ms   "
        f"{counts / allowed:5.2f} of the budget of {allowed:.0f} ms"
        f"{'' if counts <= allowed else '   OVER'}"
    )
    return counts <= allowed


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    typer.run(main)
