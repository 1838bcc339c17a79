"""Ten minutes at the projector: eight links into tiny-pressure, a sentence and a question at each.

    GET /class                        the page, which can be printed
    python -m viz.projector           the same as Markdown (docs/ten-minutes.md)

What to say at a link is the headline of that step, made from the recording's events as the
dashboard makes it, so that the two cannot drift apart; what to ask stands in
``minivllm/gallery/tiny-pressure.class.json``. No counterpart in vLLM.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from minivllm.trace.events import Event
from minivllm.trace.file import read_trace
from minivllm.trace.fold import apply, new_state
from minivllm.trace.gallery import gallery
from minivllm.trace.story import story

RUN = "tiny-pressure"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Stop:
    """One link."""

    step: int
    say: str
    ask: str
    about: str
    """``req/r4`` or ``block/6``: whose Why card the link opens."""

    @property
    def address(self) -> str:
        return f"/#/run/{RUN}/step/{self.step}/{self.about}"


@dataclass(frozen=True, slots=True)
class TenMinutes:
    title: str
    about: str
    stops: list[Stop]


def ten_minutes() -> TenMinutes:
    """Raises TraceError where the recording is missing or broken."""
    recording = gallery()[RUN]
    script = json.loads(recording.with_name(f"{RUN}.class.json").read_text(encoding="utf-8"))
    headlines = headlines_of(read_trace(recording).events)
    stops = [
        Stop(link["step"], headlines[link["step"]], link["ask"], _about(link))
        for link in script["links"]
    ]
    return TenMinutes(script["title"], script["about"], stops)


def _about(link: dict[str, Any]) -> str:
    return f"req/{link['req']}" if "req" in link else f"block/{link['block']}"


def headlines_of(events: Iterable[Event]) -> dict[int, str]:
    """Step → its headline, of a run with one engine and one life."""
    steps: dict[int, list[Event]] = {}
    for event in events:
        if event.stream == "engine0":
            steps.setdefault(event.step, []).append(event)
    state, told = new_state(), {}
    for step, step_events in steps.items():
        if step > 0 and state.config is not None:
            told[step] = story(copy.deepcopy(state), step_events).headline
        for event in step_events:
            apply(state, event)
    return told


def as_html(talk: TenMinutes) -> str:
    rows = "\n".join(
        f'<li><p><a href="{escape(stop.address)}">Step {stop.step}</a></p>'
        f'<p class="say">{escape(stop.say)}</p><p class="ask">{escape(stop.ask)}</p></li>'
        for stop in talk.stops
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(talk.title)} · minivllm</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/style/paper.css">
</head>
<body class="talk">
<main>
<h1>{escape(talk.title)}</h1>
<p>{escape(talk.about)}</p>
<ol>
{rows}
</ol>
<p class="keys">A presenter’s clicker goes from stop to stop (PgUp, PgDn). ← → step, Q asks before
each decision what it will be, M is the theme, + and − the size.</p>
</main>
</body>
</html>
"""


def as_markdown(talk: TenMinutes, base: str = "http://127.0.0.1:8000") -> str:
    lines = [f"# {talk.title}", "", talk.about, ""]
    lines += [f"The links lead to `minivllm demo`, which serves this page at {base}/class.", ""]
    for number, stop in enumerate(talk.stops, start=1):
        lines += [
            f"{number}. [Step {stop.step}]({base}{stop.address})",
            f"   Say: “{stop.say}”",
            f"   Ask: **{stop.ask}**",
        ]
    return "\n".join(lines) + "\n"


DOCS = Path(__file__).parents[1] / "docs" / "ten-minutes.md"

if __name__ == "__main__":
    DOCS.write_text(as_markdown(ten_minutes()), encoding="utf-8")
