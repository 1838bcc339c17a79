"""Markdown as a small tree, which the page draws with its own templates: no HTML is ever made.

    {"tag": "p", "of": ["See ", {"tag": "code", "of": ["why r4"]}, "."]}

A tag is one of those in ``TAGS`` or ``INLINE``; HTML in the text stays text, links lead to places
of this page (``#…``, ``?…``) or to the web, and pictures are their words. Used for the lessons.
"""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

TAGS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
    "hr": "hr",
}
INLINE = {"strong": "strong", "em": "em"}
LINKS = re.compile(r"(#|\?|https?://)")

Node = dict[str, Any]

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


def tree_of(text: str) -> list[Node]:
    return _children(SyntaxTreeNode(_PARSER.parse(text)))


def _children(node: SyntaxTreeNode) -> list[Any]:
    made: list[Any] = []
    for child in node.children:
        found = _node(child)
        made.extend(found if isinstance(found, list) else [found] if found else [])
    return made


def _node(node: SyntaxTreeNode) -> Any:
    kind = node.type
    if kind == "inline":
        return _children(node)
    if kind == "text":
        return node.content
    if kind in ("softbreak", "hardbreak"):
        return " " if kind == "softbreak" else "\n"
    if kind == "heading":
        return {"tag": node.tag, "of": _children(node)}
    if kind in ("fence", "code_block"):
        return {"tag": "pre", "info": node.info, "of": [node.content.removesuffix("\n")]}
    if kind == "code_inline":
        return {"tag": "code", "of": [node.content]}
    if kind == "link":
        href = str(node.attrs.get("href", ""))
        of = _children(node)
        return {"tag": "a", "href": href, "of": of} if LINKS.match(href) else of
    if kind == "image":
        return node.content
    if kind in TAGS or kind in INLINE:
        return {"tag": TAGS.get(kind) or INLINE[kind], "of": _children(node)}
    return _children(node) if node.children else node.content


def headed(text: str) -> list[Node]:
    """Each second heading with the items of the list under it: ``{"title", "items": [tree]}``."""
    found: list[Node] = []
    for node in tree_of(text):
        if node["tag"] == "h2":
            found.append({"title": _words(node), "items": []})
        elif node["tag"] == "ol" and found:
            found[-1]["items"] += [item["of"] for item in node["of"]]
    return found


def _words(node: Any) -> str:
    return node if isinstance(node, str) else "".join(_words(child) for child in node["of"])
