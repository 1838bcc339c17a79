"""The served page, taken apart for a file of its own (``export.py``): its body, its style as one
sheet, its modules by the names they import one another by, and what else it would fetch."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from minivllm.errors import ExportError

STATIC = Path(__file__).parent / "static"

LEFT_OUT = ("vendor/socket.io-client/", "exported.js")
"""What only a served page needs, and what stands in the file in the clear."""


@dataclass(frozen=True, slots=True)
class PageParts:
    body: str
    """``<body>`` and what stands in it; not its end."""
    style: str
    icon: str
    modules: dict[str, str]
    """Bare specifier → source."""
    resources: dict[str, str]


def take_apart() -> PageParts:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    sheets = re.findall(r'<link rel="stylesheet" href="/static/([^"]+)">', html)
    found = re.search(r'<script type="importmap">(.*?)</script>', html, re.DOTALL)
    body = re.search(r"<body.*(?=</body>)", html, re.DOTALL)
    if not sheets or found is None or body is None:
        raise ExportError("index.html has no style sheets, no import map or no body to be taken")
    style = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in sheets)
    if "</" in style or "@import" in style or "url(" in style:
        raise ExportError("a style sheet has an @import, a url() or a tag: it cannot be inlined")
    icon = base64.b64encode((STATIC / "icon.svg").read_bytes()).decode()
    bare = {
        place.removeprefix("/static/"): name
        for name, place in json.loads(found.group(1))["imports"].items()
    }
    modules, resources = {}, {}
    for path in sorted(STATIC.rglob("*")):
        name = path.relative_to(STATIC).as_posix()
        if name.startswith(LEFT_OUT):
            continue
        if path.suffix == ".js":
            source = path.read_text(encoding="utf-8")
            modules[_specifier(name, bare)] = _with_bare_imports(source, name, bare)
        elif path.suffix == ".json" and path.name not in ("package.json", "vendor.json"):
            resources[name] = path.read_text(encoding="utf-8")
    return PageParts(body.group(), style, f"data:image/svg+xml;base64,{icon}", modules, resources)


def _specifier(name: str, bare: dict[str, str]) -> str:
    """The name by which modules import a file: as the served page's import map has it."""
    if name in bare:
        return bare[name]
    for place in sorted(bare, key=len, reverse=True):
        if place.endswith("/") and name.startswith(place):
            return bare[place] + name.removeprefix(place)
    return f"#{name}"


def _with_bare_imports(source: str, name: str, bare: dict[str, str]) -> str:
    """A module out of a block has no place that ``./`` could mean."""

    def bared(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[2]))
        return f'{found[1]}"{_specifier(path, bare)}"'

    return re.sub(r'(\b(?:from|import)\s*\(?\s*)["\'](\.{1,2}/[^"\']+)["\']', bared, source)
