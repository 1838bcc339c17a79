"""Pictures of every view, for the eye: each theme and size, and the runs at the edge.

    python -m tests.viz.shots                          # into screenshots/, which git ignores
    python -m tests.viz.shots --view pool --run crowd  # only these

A picture is called RUN-VIEW-STATE-THEME-WIDTH.png. Nothing is compared: open them and look hard
(alignment, empty states, overflow, truncation, contrast). Views and drawers are those the page has.
Needs the extra ``dev`` (Playwright) and a Chromium on the PATH.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from minivllm.cli.workbench import ScenarioBench
from viz.screenshot import FLAGS, RECORDING, THEMES, find_browser
from viz.server import Server, create_app
from viz.stress import RUNS, write

SIZES = ((1440, 900), (1024, 768), (390, 844))
TINY = "tiny-pressure"
STEPS = {TINY: 8, "many-events": 600, "crowd": 12, "words": 9, "nothing": 0}
PANELS = ("help", "find", "breaks", "more")


def main(
    folder: Annotated[Path, typer.Option(help="Where they go.")] = Path("screenshots"),
    view: Annotated[list[str] | None, typer.Option(help="Only these views.")] = None,
    run: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(STEPS)}.")] = None,
    theme: Annotated[list[str] | None, typer.Option(help=" | ".join(THEMES))] = None,
    width: Annotated[list[int] | None, typer.Option(help="Only these widths.")] = None,
) -> None:
    """Take them, one after another; a minute or two."""
    from playwright.sync_api import sync_playwright

    names = run or list(STEPS)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        traces = [write(name, Path(made)) for name in names if name in RUNS]
        app = create_app([RECORDING, *traces], workbench=ScenarioBench())
        server = Server(app, port=0).start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
                for name in names:
                    for size in SIZES:
                        if not width or size[0] in width:
                            shots = Shots(browser, server.url, folder, name, size)
                            shots.take(view, [t for t in THEMES if not theme or t in theme])
                browser.close()
        finally:
            server.stop()


class Shots:
    """One run in one size: the page is opened once, then led from view to view."""

    def __init__(
        self, browser: Any, url: str, folder: Path, run: str, size: tuple[int, int]
    ) -> None:
        self._folder, self._run, self._width = folder, run, size[0]
        self.page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce"
        )
        self.page.add_init_script("localStorage.setItem('minivllm.tour', 'seen')")
        self.page.goto(f"{url}#/run/{run}/step/{STEPS[run]}")
        self.page.wait_for_function(
            "step => window.__viz?.board.store?.config && !__viz.board.wanted"
            " && __viz.board.step === step",
            arg=STEPS[run],
            timeout=120_000,
        )

    def take(self, views: list[str] | None, themes: list[str]) -> None:
        """tiny-pressure in each theme and state; the other runs in the first theme."""
        whole = self._run == TINY
        for theme in themes if whole else themes[:1]:
            self._do("theme", THEMES.index(theme))
            for view in views or self._ids("views"):
                self._do("view", view)
                self._save(view, "plain", theme)
                if self.page.evaluate("__viz.board.scene()?.running.length ?? 0"):
                    self._do("why")
                    self._save(view, "why", theme)
                    self._do("close")
            if whole and not views:
                self._open(theme)
        self.page.close()

    def _open(self, theme: str) -> None:
        self._do("view", "board")
        for drawer in self._ids("drawers"):
            self._do("why")
            self._do("drawer", drawer)
            self._save("board", drawer, theme)
            self._do("close")
        for panel in PANELS:
            self._do("panel", panel)
            self._save("board", panel, theme)
            self._do("close")
        self._do("knobs")
        self.page.wait_for_selector(".knob")
        self._save("board", "knobs", theme)
        self._do("close")

    def _ids(self, what: str) -> list[str]:
        ids: list[str] = self.page.evaluate(f"__viz.board.frame.{what}.map(({{ id }}) => id)")
        return ids

    def _do(self, what: str, value: object = None) -> None:
        self.page.evaluate(LEAD, [what, value])

    def _save(self, view: str, state: str, theme: str) -> None:
        self.page.wait_for_timeout(120)  # canvases follow in the frame after the page
        name = f"{self._run}-{view}-{state}-{theme}-{self._width}.png"
        self.page.screenshot(path=str(self._folder / name))


LEAD = """([what, value]) => {
  const { board } = __viz;
  const { frame, focus } = board;
  const theme = () => Number(board.recall("theme") ?? 0);
  if (what === "theme") for (let i = 0; i < 3 && theme() !== value; i += 1) board.nextTheme();
  if (what === "view") frame.show(value);
  if (what === "why") {
    focus.choose(null);
    const scene = board.scene();
    const last = [...scene.waiting, ...scene.running][0];
    frame.why({ req: last.req });
  }
  if (what === "drawer") frame.toggle(value);
  if (what === "panel") board.open(value);
  if (what === "knobs") board.knobs.open();
  if (what === "close") {
    board.close();
    frame.closeDrawer();
    focus.choose(null);
  }
}"""

if __name__ == "__main__":
    typer.run(main)
