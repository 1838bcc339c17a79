"""axe-core in the page: what it finds wrong, in words that say where.

The rules run as evaluated text, not as a script tag: the page's own policy stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

SOURCE = (Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

FIND = """async ([state, rules]) => {
  const only = rules.length ? { runOnly: { type: "rule", values: rules } } : {};
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...only });
  return violations.flatMap(({ id, nodes }) => nodes.map((node) =>
    [`${state}: ${id} at ${node.target}`, ...node.failureSummary.split("\\n").slice(1)].join(" ")));
}"""

RENDERED = "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
"""The page renders within a frame, its canvases follow in the next."""


def load_axe(page: Page) -> None:
    page.evaluate(SOURCE)


def violations(page: Page, state: str, *rules: str) -> list[str]:
    """What all rules find, or those that are named."""
    page.evaluate(RENDERED)
    found: Any = page.evaluate(FIND, [state, list(rules)])
    return list(found)
