"""The page's files: vendored ones unchanged, reasons complete."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from minivllm.trace.events import REASONS, ROUTE_WHYS
from viz.server import STATIC

OF_THE_PAGE, OF_ITS_TESTS = STATIC / "vendor", Path(__file__).parent / "vendor"


@pytest.mark.parametrize("vendor", [OF_THE_PAGE, OF_ITS_TESTS], ids=["page", "tests"])
def test_vendored_files_are_those_whose_hashes_stand_in_vendor_json(vendor: Path) -> None:
    packages = json.loads((vendor / "vendor.json").read_text())["packages"]
    listed: dict[str, str] = {}
    for package in packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["integrity"].startswith("sha512-") and package["license"]
        listed |= {file["path"]: file["integrity"] for file in package["files"]}
    found = {
        path.relative_to(vendor).as_posix(): "sha384-"
        + base64.b64encode(hashlib.sha384(path.read_bytes()).digest()).decode()
        for path in vendor.rglob("*")
        if path.is_file() and path.name != "vendor.json"
    }
    assert found == listed


def test_no_file_of_the_page_names_a_foreign_host() -> None:
    """One is allowed: a hint in an error message of the socket.io client."""
    for path in STATIC.rglob("*"):
        if path.suffix not in (".js", ".css", ".html", ".json", ".svg"):
            continue
        hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text(encoding="utf-8")))
        assert hosts <= {"www.w3.org", "socket.io"}, path


def test_the_page_knows_every_reason_in_the_same_words() -> None:
    text = (STATIC / "core" / "reasons.js").read_text(encoding="utf-8")
    table = text[text.index("export const REASONS") : text.index("};")]
    known = dict(re.findall(r'^  (\w+): "(.*)",$', table, re.MULTILINE))
    assert known == {reason.value: words for reason, words in REASONS.items()}


def test_the_page_knows_every_reason_for_a_route_in_the_same_words() -> None:
    text = (STATIC / "core" / "front.js").read_text(encoding="utf-8")
    table = text[text.index("export const ROUTE_WHYS") :].partition("};")[0]
    known = dict(re.findall(r'^  (\w+): "(.*)",$', table, re.MULTILINE))
    assert known == {why.value: words for why, words in ROUTE_WHYS.items()}


# The modules that draw a view: what their sheet says of a class may reach no other's.
ROOMS = {
    "play": r"views/play\.js|view/(playside|chat)\.js",
    "lens": r"views/lens|view/(heads|weights|arming)\.js",
    "life": r"views/life",
    "pool": r"views/pool\.js|view/(prefixes|queue|tables)\.js",
    "compare": r"views/(compare|timeline)\.js|view/(difference|forkform|cells|cellwords)\.js",
}


def classes(text: str) -> set[str]:
    attributes = re.findall(r'class(?:Name)?\s*=\s*("[^"]*"|\$\{[^}]*\}|`[^`]*`)', text)
    return {name for each in attributes for name in re.findall(r"[a-z][\w-]*", each)}


@pytest.mark.parametrize("view", ROOMS)
def test_the_sheet_of_a_view_reaches_no_other_view(view: str) -> None:
    """Each selector begins at its view, or has a class (or an element) that is its room's alone."""
    elsewhere: set[str] = set()
    for path in STATIC.rglob("*.js"):
        name = path.relative_to(STATIC).as_posix()
        if not re.match(rf"{ROOMS[view]}|vendor|core", name):
            elsewhere |= classes(path.read_text(encoding="utf-8"))
    sheet = (STATIC / "style" / f"{view}.css").read_text(encoding="utf-8")
    sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    for rule in re.findall(r"([^{}]+)\{", sheet):
        # A comma within :is(…) parts no selectors.
        for selector in re.split(r",(?![^(]*\))", rule):
            if ".view" in selector or "vz-" in selector:
                continue
            named = set(re.findall(r"\.([a-z][\w-]*)", selector))
            assert named - elsewhere, f"style/{view}.css: {selector.strip()} reaches other views"
