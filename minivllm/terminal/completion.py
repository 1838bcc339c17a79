"""What Tab offers: verbs first, then what the verb takes at the place that is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from minivllm.config import STEP_KNOBS
from minivllm.terminal.session import Session
from minivllm.terminal.verbs import ALIASES, PINNABLE, VERBS
from minivllm.trace.events import KINDS, Reason

PLACES = ("preempt", "evict", "hit", "skip", "finish", "step", "line")
MOST_REQUESTS = 200


class VerbCompleter(Completer):
    """Asked on prompt_toolkit's thread: it only reads what was drawn last."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        words = document.text_before_cursor.split(" ")
        if len(words) > 1:
            words = [word for word in words[:-1] if word] + words[-1:]
        for choice in choices(self.session, words):
            if choice.startswith(words[-1]):
                yield Completion(choice, start_position=-len(words[-1]))


def choices(session: Session, words: list[str]) -> list[str]:
    """For the last of these words."""
    if len(words) == 1:
        return list(VERBS)
    verb, before = ALIASES.get(words[0], words[0]), words[1:-1]
    if verb == "pin" and before:
        return choices(session, words[1:])
    view = session.view
    requests = list(view.state.requests)[-MOST_REQUESTS:]
    if verb in ("until", "break"):
        return _places(session, before, words[-1], requests)
    if verb in ("set", "fork"):
        knobs = view.state.config or {}
        return [*STEP_KNOBS, *(k for k in knobs if k not in STEP_KNOBS)] if not before else []
    if before:
        return []
    return {
        "why": [*requests, "block", "budget"],
        "request": requests,
        "requests": ["waiting", "running", "preempted", "finished"],
        "tokens": requests,
        "topk": requests,
        "abort": [r for r in requests if view.state.requests[r].status != "finished"],
        "events": [*requests, *dict.fromkeys(e.kind for e in view.events)],
        "where": [*requests, *dict.fromkeys(e.kind for e in view.events)],
        "locals": list(view.code.locals) if view.code is not None else [],
        "help": list(VERBS),
        "pin": list(PINNABLE),
        "zoom": ["in", "out", "auto", "map", "names", "slots"],
        "goto": ["last"],
        "clear": [*(str(number) for number in session.breaks), "code"],
    }.get(verb, [])


def _places(session: Session, before: list[str], word: str, requests: list[str]) -> list[str]:
    if not before:
        skips = [f"skip:{reason.value}" for reason in Reason] if word.startswith("skip:") else []
        return [*PLACES, *skips, *requests, *KINDS]
    if before[-1] == "line":
        places = session.history.sources.values()
        return sorted({f"{place.file.rpartition('/')[2]}:{place.line}" for place in places})
    return requests
