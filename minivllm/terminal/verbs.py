"""The verbs: what can be typed, in the manner of pdb, with an example for each.

The same verbs serve the full screen, ``-c "goto 8; why r4"``, Python and the tests. What is typed
wrongly raises :class:`VerbError`: one line that says what is allowed.

    moves.py      next, event, phase, back, goto, continue, until, break …
    asking.py     why, where, locals, events, diff
    looking.py    requests, blocks, queue, batch, tensors …
    steering.py   set, fork, live, submit, abort, export …
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

from minivllm.terminal import asking, looking, moves, steering
from minivllm.terminal.cells import LEGEND
from minivllm.terminal.naming import no_more
from minivllm.terminal.places import PLACES
from minivllm.terminal.reply import Reply, VerbError
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean

__all__ = ["ALIASES", "PINNABLE", "VERBS", "Reply", "Session", "VerbError", "execute", "script"]


@dataclass(frozen=True)
class Verb:
    run: Callable[[Session, list[str]], Reply]
    takes: str
    does: str
    example: str
    more: str = ""
    """What ``help VERB`` adds."""
    most: int | None = None
    """So many words it takes; None: it counts them itself, or takes none."""


def execute(session: Session, line: str) -> Reply:
    """One line; empty means ``next``. Raises VerbError, and whatever a live step raises."""
    words = line.split() or ["next"]
    verb = ALIASES.get(words[0].lower(), words[0].lower())
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "help lists what there is"
        raise VerbError(f"{clean(words[0])!r} is no verb; {hint}")
    check_words(verb, words[1:])
    return VERBS[verb].run(session, words[1:])


def check_words(verb: str, words: list[str]) -> None:
    """Raises VerbError for words that the verb would pass over."""
    takes = VERBS[verb].takes
    most = VERBS[verb].most if takes else 0
    if most is not None:
        no_more(words, verb, takes, most)


def script(commands: str) -> list[str]:
    """``goto 8; why r4`` → its lines. Quotes at a word's start keep a semicolon; empty lines and
    those that begin with # are left out."""
    lines = [line for line in commands.splitlines() if not line.lstrip().startswith("#")]
    pieces = (piece for line in lines for piece in _PIECES.findall(line))
    return [
        piece.strip() for piece in pieces if piece.strip() and not piece.lstrip().startswith("#")
    ]


_PIECES = re.compile(r"""(?:(?:^|(?<=[\s;]))(?:"[^"]*"|'[^']*')|[^;])+""")


def _help(session: Session, words: list[str]) -> Reply:
    if words:
        name = ALIASES.get(words[0], words[0])
        if name not in VERBS:
            near = difflib.get_close_matches(name, VERBS, n=1)
            hint = f"did you mean {near[0]}?" if near else "help alone lists the verbs"
            raise VerbError(f"help {clean(words[0])}: no such verb; {hint}")
        verb = VERBS[name]
        lines = [_usage(name, verb)]
        lines += [Text(f"  {line}") for line in verb.more.splitlines()]
        short = [alias for alias, of in ALIASES.items() if of == name]
        if short:
            lines.append(Text(f"short: {', '.join(short)}", style="dim"))
        lines.append(Text(f"example: {verb.example}", style="dim"))
        data: object = {"verb": name, "takes": verb.takes, "does": verb.does}
        return Reply(lines, {**data, "example": verb.example}, title=f"help {name}")  # type: ignore[dict-item]
    lines = []
    for title, names in GROUPS.items():
        lines.append(Text(title, style="bold underline"))
        lines += [_usage(name, VERBS[name]) for name in names]
    lines += [Text(), Text("THE BOARD", style="bold underline")]
    lines += [Text(line, style="dim") for line in LEGEND]
    return Reply(lines, {name: verb.does for name, verb in VERBS.items()}, title="help")


def _usage(name: str, verb: Verb) -> Text:
    return Text().append(f"{name + ' ' + verb.takes:<29} ", style="bold").append(verb.does)


def _quit(session: Session, words: list[str]) -> Reply:
    return Reply(quit=True)


_WHERE = f"""{" · ".join(PLACES[0])}
{" · ".join(PLACES[1])}
(these: an event of that line, step, kind, group or reason)
A or B: what comes first. It stands behind the event; next ends its step."""

_ON = "Where this would let the engine go on from its past it asks: live, or a fork?"
_CODE = """clear code: a set_trace() or breakpoint() in the engine's own code, in a
scheduler of yours, say, holds it no more; break code: it does again."""

GROUPS: dict[str, list[str]] = {
    "MOVE": ["next", "event", "phase", "back", "goto", "continue", "until"],
    "BREAKS": ["break", "breaks", "clear"],
    "ASK WHY": ["why", "where", "locals", "events", "diff"],
    "LOOK AT": [
        "requests",
        "request",
        "queue",
        "tokens",
        "topk",
        "blocks",
        "block",
        "free",
        "tables",
        "batch",
        "tensors",
        "board",
    ],
    "CHANGE": ["set", "fork", "leave", "live", "submit", "abort"],
    "SCREEN": ["pin", "zoom", "export", "help", "quit"],
}
VERBS = {
    "next": Verb(moves.next_, "[N]", "one step further, or N; Enter alone, too", "next 5", _ON),
    "event": Verb(moves.event, "[N]", "one event further in the step; -1: back", "event"),
    "phase": Verb(
        moves.phase, "[N]", "to the next phase: execute, update, the step's end", "phase"
    ),
    "back": Verb(moves.back, "[N]", "one step back, or N; no engine rewinds", "back 3"),
    "goto": Verb(moves.goto, "STEP|last", "to a step", "goto 8", _ON),
    "continue": Verb(moves.continue_, "", "on to the next break, or to the end", "continue"),
    "until": Verb(
        moves.until, "WHERE", "on until it happens: preempt, evict …", "until preempt", _WHERE
    ),
    "break": Verb(
        moves.break_, "WHERE", "stop there, whenever it comes", "break skip:no_free_blocks", _WHERE
    ),
    "breaks": Verb(moves.breaks, "", "the breaks there are", "breaks"),
    "clear": Verb(moves.clear, "[N|code]", "take break N away, or all", "clear 1", _CODE),
    "why": Verb(
        asking.why, "[r4|block 6|budget]", "the reason, with its numbers and source", "why r4"
    ),
    "where": Verb(asking.where, "[KIND|r4]", "the source line that decided", "where sched.victim"),
    "locals": Verb(
        asking.locals_,
        "[NAME]",
        "of the code of yours that holds the engine",
        "locals",
        "Where set_trace() or breakpoint() holds it: each name, and its repr then.",
        most=1,
    ),
    "events": Verb(asking.events, "[KIND|r4]", "the events of this step", "events kv"),
    "diff": Verb(
        asking.diff, "N [M]", "what is different between two steps, or N and here", "diff 7 8"
    ),
    "requests": Verb(
        looking.requests, "[STATUS]", "all requests, in numbers", "requests running", most=1
    ),
    "request": Verb(looking.request, "r4", "its life, step by step", "request r4", most=1),
    "queue": Verb(looking.queue, "", "who waits, in order, and why", "queue"),
    "tokens": Verb(looking.tokens, "[r4]", "what each reads and says", "tokens r4", most=1),
    "topk": Verb(looking.topk, "[r4]", "what might have been drawn instead", "topk r4", most=1),
    "blocks": Verb(looking.blocks, "[N|N-M]", "the pool, with its slots", "blocks 1-8", most=1),
    "block": Verb(
        looking.block, "6", "its history: who took, hashed, shared, evicted it", "block 6"
    ),
    "free": Verb(looking.free, "", "the free queue: the order of eviction", "free"),
    "tables": Verb(looking.tables, "", "block tables: logical → physical", "tables"),
    "batch": Verb(looking.batch, "", "who runs how many tokens, and what limits whom", "batch"),
    "tensors": Verb(
        looking.tensors, "", "the batch's arrays: ids, positions, slots, tables", "tensors"
    ),
    "board": Verb(asking.board, "", "print the board (for -c and logs)", "board"),
    "set": Verb(
        steering.set_,
        "KNOB VALUE",
        "change a knob from the next step on",
        "set max_num_batched_tokens 64",
        "On the engine; of a recording, and from the past if you like, in a fork.\n"
        "A knob of the pool (num_kv_blocks 24) makes a fork from the start.",
    ),
    "fork": Verb(
        steering.fork,
        "[KNOB VALUE]",
        "run it anew from here, with another knob",
        "fork max_num_seqs 2",
        "The real scheduler and pool, with the recorded tokens; after these, stand-ins.",
    ),
    "leave": Verb(steering.leave, "", "out of a fork, back to where it came from", "leave"),
    "live": Verb(steering.live, "", "to the newest place, where the engine stands", "live"),
    "submit": Verb(
        steering.submit,
        '"PROMPT" [N]',
        "a request of your own, with N tokens to say",
        'submit "Once upon a time" 8',
        "Where no model runs, its words are its tokens, and stand-ins its answer.",
    ),
    "abort": Verb(
        steering.abort, "r4", "end a request, as a client that goes away", "abort r4", most=1
    ),
    "pin": Verb(
        steering.pin, "VERB …", "keep its answer below the board; alone: off", "pin tables"
    ),
    "zoom": Verb(steering.zoom, "in|out|auto|map", "how large the pool is drawn", "zoom in"),
    "export": Verb(
        steering.export,
        "FILE",
        "the run so far (.jsonl), the board (.svg, .html)",
        "export run.trace.jsonl.gz",
    ),
    "help": Verb(_help, "[VERB]", "this, or one verb with an example", "help until", most=1),
    "quit": Verb(_quit, "", "leave (also: Ctrl-D)", "quit"),
}
ALIASES = {
    "n": "next",
    "step": "next",
    "e": "event",
    "p": "phase",
    "b": "back",
    "g": "goto",
    "c": "continue",
    "u": "until",
    "w": "why",
    "s": "where",
    "source": "where",
    "r": "request",
    "rs": "requests",
    "t": "tensors",
    "h": "help",
    "?": "help",
    "q": "quit",
    "exit": "quit",
}
PINNABLE = (
    *(verb for verb in GROUPS["ASK WHY"] if verb != "diff"),
    *(verb for verb in GROUPS["LOOK AT"] if verb != "board"),
)
"""What may be answered anew at each place: verbs that change nothing."""
