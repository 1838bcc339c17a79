"""The verbs that change something: a knob, a fork, a prompt, an abort; and what is written out.

What is asked of the engine is asked of the run at its newest place only. Of a recording nothing can
be changed: there a knob makes a fork.
"""

from __future__ import annotations

import gzip
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from minivllm.config import STEP_KNOBS
from minivllm.errors import ConfigError
from minivllm.replay.fork import parse_knobs
from minivllm.terminal.asking import PLAIN_HEIGHT
from minivllm.terminal.moves import ask_before_going_on, moved
from minivllm.terminal.naming import number, request_named
from minivllm.terminal.reply import Question, Reply, VerbError
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean
from minivllm.trace.words import count, join, knob_value

DEFAULT_TOKENS = 16
WIDE = 120
"""Columns of a board that is written to a file."""


# --- knobs and forks -----------------------------------------------------------------------------


def set_(session: Session, words: list[str]) -> Reply:
    """On the engine, from its next step on; of a recording, or of a knob that is the pool's, in a
    fork."""
    knobs = _knobs(words, "set")
    line = " ".join(words)
    from_start = [name for name in knobs if name not in STEP_KNOBS]
    if session.steered is None or from_start:
        return _fork(session, knobs)
    if (question := ask_before_going_on(session, f"set {line}")) is not None:
        assert question.question is not None
        answers = {"live": question.question.answers["live"], "fork": [f"fork {line}"]}
        return Reply(question=Question(question.question.words, answers))
    session.steered.set_knobs(knobs)
    session.to_head()
    told = join([f"{name} is {knob_value(value)}" for name, value in knobs.items()])
    return Reply([Text(f"from the next step on {told}")], {"set": knobs})


def fork(session: Session, words: list[str]) -> Reply:
    return _fork(session, _knobs(words, "fork") if words else {})


def _fork(session: Session, knobs: dict[str, Any]) -> Reply:
    original, coming = session.steered, len(session.history.state().requests) + 1
    at_step = session.fork(knobs)
    made = session.steered
    assert made is not None
    from_start = [name for name in knobs if name not in STEP_KNOBS]
    told = join([f"{name}={knob_value(value)}" for name, value in knobs.items()]) if knobs else ""
    since = "from the start" if from_start else f"from step {at_step} on"
    what = f"a fork {since}" + (f" with {told}" if told else "")
    then = "leave goes back"
    if original and original.source.can_come(coming) and not made.source.can_come(coming):
        then += "; who comes later is not known"
    reply = moved(session)
    reply.message = Text(f"{what}: next runs it, {then}", style="bold")
    reply.lines.append(Text(f"      {what}: next runs its real scheduler; {then}", style="dim"))
    reply.data = {"fork": {"at_step": 1 if from_start else at_step, "knobs": knobs}, **reply.data}
    return reply


def _knobs(words: list[str], verb: str) -> dict[str, Any]:
    """``max_num_seqs 2`` or ``max_num_seqs=2``, several of them, too."""
    usage = f"{verb}: takes knobs and their values, such as {verb} max_num_batched_tokens 64"
    pairs: list[str] = []
    rest = [word for word in words if word != "="]
    while rest:
        name = rest.pop(0)
        if "=" in name:
            pairs.append(name)
        elif rest:
            pairs.append(f"{name}={rest.pop(0)}")
        else:
            raise VerbError(usage)
    if not pairs:
        raise VerbError(f"{usage}; between two steps: {', '.join(STEP_KNOBS)}")
    try:
        return parse_knobs(pairs)
    except ConfigError as error:
        raise VerbError(f"{verb} {clean(str(error.given))}: allowed: {error.allowed}") from error


def leave(session: Session, words: list[str]) -> Reply:
    if not session.originals:
        raise VerbError("leave: this is no fork; quit ends")
    session.leave_fork()
    return moved(session)


def live(session: Session, words: list[str]) -> Reply:
    """To the newest place."""
    session.live()
    return moved(session)


# --- requests ------------------------------------------------------------------------------------


def submit(session: Session, words: list[str]) -> Reply:
    given = _quoted(words, "submit")
    max_tokens = DEFAULT_TOKENS
    if len(given) > 1 and re.fullmatch("-?[0-9]+", given[-1]):
        max_tokens = number([given.pop()], "submit", 1, 100_000)
    prompt = " ".join(given)
    if not prompt.strip():
        raise VerbError('submit: takes a prompt, such as submit "Once upon a time" 8')
    line = f"submit {shlex.quote(prompt)} {max_tokens}"
    if (reply := _engine_or_question(session, line, "submit")) is not None:
        return reply
    assert session.steered is not None
    name = session.steered.submit(prompt, max_tokens)
    session.to_head()
    taken = session.view.state.requests.get(name)
    data: dict[str, object] = {"req": name}
    told = f"{name} is taken in"
    if taken is None:
        told += ", when this step has ended"
    elif taken.max_tokens < max_tokens:
        told += f", for {count(taken.max_tokens, 'token')}: max_model_len leaves no more"
        data["max_tokens"] = taken.max_tokens
    return Reply([Text(told)], data)


def abort(session: Session, words: list[str]) -> Reply:
    req = request_named(session, words, "abort")
    if session.view.state.requests[req].status == "finished":
        raise VerbError(f"abort {req}: it has finished already")
    if (reply := _engine_or_question(session, f"abort {req}", "abort")) is not None:
        return reply
    assert session.steered is not None
    session.steered.abort(req)
    session.to_head()
    return Reply([Text(f"{req} is aborted")], {"req": req})


def _engine_or_question(session: Session, line: str, verb: str) -> Reply | None:
    if session.steered is None:
        raise VerbError(f"{verb}: nothing runs behind a recording; fork makes a run of it")
    return ask_before_going_on(session, line)


def _quoted(words: list[str], verb: str) -> list[str]:
    try:
        return shlex.split(" ".join(words))
    except ValueError:
        return words  # an apostrophe: these are just words


# --- what is shown and written -------------------------------------------------------------------


def pin(session: Session, words: list[str]) -> Reply:
    """Answer a line anew at each place, below the board."""
    from minivllm.terminal.verbs import ALIASES, PINNABLE, check_words

    verb = ALIASES.get(words[0], words[0]) if words else ""
    if not words:
        session.pinned = ""
        return Reply([Text("nothing is pinned")], {"pinned": ""})
    if verb not in PINNABLE:
        raise VerbError(f"pin {clean(words[0])}: can pin {', '.join(PINNABLE)}")
    check_words(verb, words[1:])
    session.pinned = " ".join([verb, *words[1:]])
    return Reply([Text(f"pinned: {session.pinned}; pin alone takes it off")], {"pinned": verb})


def zoom(session: Session, words: list[str]) -> Reply:
    """How large the pool is drawn."""
    named = {"auto": None, "map": 0, "names": 1, "slots": 2}
    word = " ".join(words)
    level = 1 if session.zoom is None else session.zoom
    if word in ("in", "+"):
        session.zoom = min(level + 1, 2)
    elif word in ("out", "-"):
        session.zoom = max(level - 1, 0)
    elif word in named:
        session.zoom = named[word]
    else:
        raise VerbError(f"zoom {clean(word)}: takes in, out, {', '.join(named)}".replace(" :", ":"))
    now = next(name for name, value in named.items() if value == session.zoom)
    return Reply([Text(f"the pool is drawn as: {now}")], {"zoom": now})


def export(session: Session, words: list[str]) -> Reply:
    """The run so far as a trace, or the board as a picture, a page or text."""
    given = _quoted(words, "export")
    if len(given) != 1:
        raise VerbError("export: takes a file: .jsonl or .jsonl.gz, .svg, .html or .txt")
    path = Path(given[0]).expanduser()
    if path.exists():  # the trace that is being read, say, of which this is one engine's part
        raise VerbError(f"export {clean(given[0])}: it is there already; name a new file")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        what = _export_trace(session, path)
    elif path.suffix in (".svg", ".html", ".txt"):
        what = _export_board(session, path)
    else:
        raise VerbError(
            f"export {clean(given[0])}: a trace is .jsonl or .jsonl.gz, the board .svg, .html, .txt"
        )
    return Reply([Text(f"{what}: {path}")], {"file": str(path), "what": what})


def _export_trace(session: Session, path: Path) -> str:
    history = session.history
    events = [e for step in history.steps.values() for e in step]
    events.sort(key=lambda event: event.seq)  # a word after its step's end stands with its step
    lines = [msgspec.json.encode(line) for line in (history.header, *events)]
    raw = b"\n".join(lines) + b"\n"
    _write(path, gzip.compress(raw) if path.suffix == ".gz" else raw)
    which, told = session.run.which, f"{len(events)} events"
    if which:
        told += f" of {which}, without the others"
    if history.open is not None:  # cut in the middle, its last step would tell half a story
        told += f"; step {history.open} has not ended and is left out"
    return told


def _export_board(session: Session, path: Path) -> str:
    import io

    from rich.console import Console

    from minivllm.terminal.board import board

    width = max(session.width, WIDE)
    console = Console(file=io.StringIO(), record=True, width=width, force_terminal=True)
    lines = board(session.view, width, PLAIN_HEIGHT + 8, zoom=session.zoom)
    for line in lines:
        console.print(line, soft_wrap=True)
    title = f"{session.history.header.name or 'run'}, step {session.step}"
    if path.suffix == ".svg":
        text = console.export_svg(title=title)
    elif path.suffix == ".html":
        text = console.export_html()
    else:
        text = "\n".join(line.plain.rstrip() for line in lines) + "\n"
    _write(path, text.encode())
    return f"the board of step {session.step}"


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise VerbError(f"export {path}: {error.strerror}") from error
