"""Source map: the source that ran, with how often each line told something.

Every event names the line that emitted it (``src``), and ``run.source`` gives each function's text
once, so a trace carries the code of its own decisions. Only lines that emit are counted: these are
the branches that decide. ``viz/static/core/sources.js`` is the twin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from minivllm.trace.events import Event, RunSource


@dataclass(frozen=True, slots=True)
class SourceLine:
    number: int
    text: str
    hits: int
    """How many events it emitted, of those that were counted; 0 for a line that emits nothing."""


@dataclass(frozen=True, slots=True)
class SourceFunction:
    file: str
    name: str
    lines: list[SourceLine]

    @property
    def hits(self) -> int:
        return sum(line.hits for line in self.lines)


def source_map(sources: Mapping[int, RunSource], events: Iterable[Event]) -> list[SourceFunction]:
    """Every function that is known, by file and line, with the hits of these events."""
    counted = Counter(event.src for event in events)
    hits: dict[tuple[str, int], Counter[int]] = {}
    texts: dict[tuple[str, int], RunSource] = {}
    for source in sources.values():
        key = (source.file, source.first_line)
        hits.setdefault(key, Counter())[source.line] += counted[source.src]
        if source.text or key not in texts:
            texts[key] = source
    functions = []
    for key in sorted(texts):
        source = texts[key]
        lines = [
            SourceLine(number, text, hits[key][number])
            for number, text in enumerate(source.text.splitlines(), start=source.first_line)
        ]
        functions.append(SourceFunction(source.file, source.function, lines))
    return functions
