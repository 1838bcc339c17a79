"""Markdown becomes a tree of known tags; nothing in it is markup."""

from __future__ import annotations

from viz.prose import headed, tree_of


def test_html_is_text_and_links_lead_to_the_page_or_the_web() -> None:
    assert tree_of("<script>alert(1)</script>\n\n**a** `b<i>`") == [
        {"tag": "p", "of": ["<script>alert(1)</script>"]},
        {"tag": "p", "of": [{"tag": "strong", "of": ["a"]}, " ", {"tag": "code", "of": ["b<i>"]}]},
    ]
    (paragraph,) = tree_of("[a](javascript:x) [b](#/run/x) [c](https://x.y) [d](//evil) [e](f.md)")
    links = [node["href"] for node in paragraph["of"] if isinstance(node, dict)]
    assert links == ["#/run/x", "https://x.y"]


def test_lists_code_and_tables_keep_their_shape() -> None:
    code, table = tree_of("```console model\nx <y>\n```\n\n| a | b |\n|---|---|\n| c | d |\n")
    assert code == {"tag": "pre", "info": "console model", "of": ["x <y>"]}
    assert [part["tag"] for part in table["of"]] == ["thead", "tbody"]
    hints = headed("# H\n\n## One `r2`?\n\n1. a\n2. *b*\n\n## Two\n\n1. c\n")
    assert [(each["title"], len(each["items"])) for each in hints] == [("One r2?", 2), ("Two", 1)]
