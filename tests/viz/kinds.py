"""Write ``viz/static/core/kinds.js``: each kind of event in a sentence, from its docstring.

python -m tests.viz.kinds
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from minivllm.trace import events

FILE = Path(__file__).parents[2] / "viz" / "static" / "core" / "kinds.js"
HEAD = """\
// Each kind of event in a sentence: what minivllm/trace/events.py says of it. Written by
// `python -m tests.viz.kinds`; a test holds it to that.

export const KINDS = """


def sentences() -> dict[str, str]:
    """The first paragraph of each kind's docstring, on one line; `field` is a field's name."""
    told = {}
    for _, data in inspect.getmembers(events, inspect.isclass):
        kind = vars(data).get("KIND")
        if kind and data.__doc__:
            words = " ".join(inspect.cleandoc(data.__doc__).split("\n\n")[0].split())
            words = words.removeprefix("*Moves*: ")  # a mark for who writes a fold
            told[kind] = re.sub(r"``(.*?)``", r"`\1`", words[0].upper() + words[1:])
    return dict(sorted(told.items()))


def written() -> str:
    return HEAD + json.dumps(sentences(), ensure_ascii=False, indent=2) + ";\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
