"""The README's picture: a recorded run on the dashboard, as headless Chromium shows it.

    python -m viz.screenshot                 # docs/board.png: tiny-pressure at step 8
    python -m viz.screenshot --step 14 --theme light -o other.png
    python -m viz.screenshot --view life --step 12 -o life.svg    # a drawing, as for paper
    python -m viz.screenshot --view pool --step 12 -o pool.pdf    # the same on a page of A4

A PNG is what the window shows. SVG and PDF are the page's own picture (the key I): the view with
all that scrolls in it, white unless ``--theme`` is given.
Needs the extra ``dev`` (Playwright) and a Chromium on the PATH.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

import minivllm
from viz.server import Server, create_app

RECORDING = Path(minivllm.__file__).parent / "gallery" / "tiny-pressure.trace.jsonl"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
THEMES = ("dark", "light", "projector")  # in the order in which the page's button goes round
SUFFIXES = (".png", ".svg", ".pdf")
SETTLED_MS = 1500
"""Longer than the five beats of a step: afterwards nothing moves."""


def find_browser() -> str:
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        raise SystemExit(f"no browser on the PATH; looked for {', '.join(BROWSERS)}")
    return path


def take(
    step: Annotated[int, typer.Option(help="The step to show.")] = 8,
    req: Annotated[str, typer.Option(help="The request to select; empty: none.")] = "r4",
    view: Annotated[str, typer.Option(help="The view, as in the page's address.")] = "board",
    theme: Annotated[
        str, typer.Option(help=f"{' | '.join(THEMES)}; default: dark, as SVG and PDF white.")
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", "-o", help=f"The picture: {', '.join(SUFFIXES)}.")
    ] = Path("docs/board.png"),
) -> None:
    """Open the recorded tiny-pressure at a step and save what the page shows."""
    from playwright.sync_api import sync_playwright

    browser_path = find_browser()
    if out.suffix not in SUFFIXES:
        raise SystemExit(f"--out: got {out.name!r}; allowed: a name with {' | '.join(SUFFIXES)}")
    if theme not in ("", *THEMES):
        raise SystemExit(f"--theme: got {theme!r}; allowed: {' | '.join(THEMES)}")
    server = Server(create_app([RECORDING]), port=0).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.add_init_script(
                "localStorage.setItem('minivllm.tour', 'seen');"
                f"localStorage.setItem('minivllm.theme', '{THEMES.index(theme or THEMES[0])}');"
            )
            run = RECORDING.name.removesuffix(".trace.jsonl")
            selected = f"/req/{req}" if req else ""
            page.goto(f"{server.url}#/run/{run}/step/{step}{selected}?view={view}")
            page.wait_for_timeout(SETTLED_MS)
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix == ".png":
                page.screenshot(path=str(out))
            elif out.suffix == ".svg":
                drawn = page.evaluate("paper => __viz.picture(paper).text", not theme)
                out.write_text(drawn, encoding="utf-8")
            else:
                page.evaluate("paper => { __viz.board.printing.paper = paper }", not theme)
                page.pdf(path=str(out), prefer_css_page_size=True, print_background=True)
            browser.close()
    finally:
        server.stop()
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(take)
