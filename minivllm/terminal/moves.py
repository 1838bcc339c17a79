"""The verbs that move: next, event, phase, back, goto, continue, until, and the breaks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from rich.text import Text

from minivllm.errors import ConfigError
from minivllm.terminal.naming import number
from minivllm.terminal.places import PLACES, check, not_yet_known
from minivllm.terminal.reply import Question, Reply, VerbError
from minivllm.terminal.session import MAX_STEP, Session
from minivllm.terminal.text import clean
from minivllm.trace.until import Until, parse

CODE = "code"
"""The break that is there from the start: set_trace in the engine's own code."""
Move = Callable[[int], int]
"""So many steps, events or phases on; returns how many it were."""


def moved(session: Session) -> Reply:
    """What the place is that one stands at now."""
    view = session.view
    told = view.story
    head = Text().append(f"{view.step:>4}  ", style="dim").append(clean(told.headline), "bold")
    lines = [head]
    if told.also:
        lines.append(Text(f"      {'' if view.event else 'also: '}{clean(told.also)}", style="dim"))
    if session.is_held_by_code:
        lines.insert(0, Text(f"break {CODE}: {by_code(session)}"))
    return Reply(lines, place(session), moved=True)


def by_code(session: Session) -> str:
    """Which line holds the engine, where its own code does."""
    code = session.held_code
    who = f"held by {clean(code.place)}" if code else "the engine's own code holds it here"
    return f"{who}; clear code lets it be"


def place(session: Session) -> dict[str, object]:
    view = session.view
    event = view.event
    return {
        "step": view.step,
        "last": view.last,
        "whole": view.whole,
        "headline": view.story.headline,
        "also": view.story.also,
        "event": msgspec.to_builtins(event) if event is not None else None,
    }


def _is_the_end(session: Session) -> VerbError:
    step = session.step
    if session.steered is None:
        return VerbError(f"step {step} is the last; back and goto look at earlier ones")
    return VerbError(
        f"step {step} is the last: nothing is left to run; submit a prompt, or look back"
    )


# --- moving --------------------------------------------------------------------------------------


def onward(session: Session, n: int, move: Move) -> tuple[int, int]:
    """``n`` moves, through what is known first. Returns how many were made, and how many are left
    to the engine: where that would go on while one looks at its past, none was made, and the place
    is the same; somebody has to say what shall go on."""
    session.interrupted = False
    here, is_past = (session.step, session.at), not session.is_newest
    made = 0
    while made < n and not session.is_newest and not session.interrupted and move(1):
        made += 1
    left = n - made if not session.interrupted else 0
    if left and is_past and session.steered is not None and session.steered.can_move:
        session.step, session.at = here
        return 0, left + _stands_in_the_middle(session, move)
    return made + (move(left) if left else 0), 0


def _stands_in_the_middle(session: Session, move: Move) -> bool:
    """Of a step, or of a phase: then what is known of it is not yet the whole move."""
    assert session.steered is not None
    if move == session.phase:
        held = session.steered.source.gate.held
        return held is not None and held.at in ("event", "code")
    return move == session.forward and session.history.has_begun


def _move(session: Session, verb: str, n: int, move: Move) -> Reply:
    made, left = onward(session, n, move)
    if left and (asked := ask_before_going_on(session, f"{verb} {n}", f"{verb} {left}")):
        return asked
    if not made:
        raise _is_the_end(session)
    return moved(session)


def next_(session: Session, words: list[str]) -> Reply:
    return _move(session, "next", number(words, "next", 1, MAX_STEP, default=1), session.forward)


def event(session: Session, words: list[str]) -> Reply:
    n = number(words, "event", -MAX_STEP, MAX_STEP, default=1)
    if n == 0:
        raise VerbError("event 0: takes a number of events, 1 or more; negative ones go back")
    if n > 0:
        return _move(session, "event", n, session.event)
    if not session.event(n):
        raise VerbError("this is the first event there is")
    return moved(session)


def phase(session: Session, words: list[str]) -> Reply:
    return _move(session, "phase", number(words, "phase", 1, MAX_STEP, default=1), session.phase)


def back(session: Session, words: list[str]) -> Reply:
    n = number(words, "back", 1, MAX_STEP, default=1)
    first = session.history.first
    if session.step == first:
        before = "earlier ones were not kept" if first else "nothing has run yet"
        raise VerbError(f"step {first} is the first: {before}; next goes on")
    session.step, session.at = max(session.step - n, first), None
    return moved(session)


def goto(session: Session, words: list[str]) -> Reply:
    history = session.history
    if words and words[0].lower() in ("last", "end"):
        session.to_head()
        return moved(session)
    can_run = session.steered is not None and session.steered.can_move
    n = number(words, "goto", history.first, MAX_STEP if can_run else history.head)
    if n <= history.last:
        session.step, session.at = n, None
        return moved(session)
    if not session.is_newest:
        if n == history.head and (history.has_begun or not can_run):
            session.to_head()  # the step in which the engine stands, as far as it is told
            return moved(session)
        if (asked := ask_before_going_on(session, f"goto {n}")) is not None:
            return asked
    here = session.step, session.at
    session.to_head()
    session.forward(n - history.last)
    if session.is_held_by_code and session.step <= n:
        reply = moved(session)
        reply.reached = False
        reply.lines[0] = Text(f"not reached: step {n} ({by_code(session)})", "bold")
        return reply
    if session.step < n and not session.interrupted:
        session.step, session.at = here
        raise VerbError(f"goto {n}: the run ended with step {history.last}")
    return moved(session)


# --- until and breaks ----------------------------------------------------------------------------


def continue_(session: Session, words: list[str]) -> Reply:
    ahead = any(session.knows(goal) for goal in session.breaks.values())
    if not ahead and (question := ask_before_going_on(session, "continue")) is not None:
        return question
    _, hit = session.until(None)
    reply = moved(session)
    if hit is not None:
        reply.lines.insert(0, Text(f"break {hit}: {session.breaks[hit].words}"))
    assert isinstance(reply.data, dict)
    reply.data["break"] = CODE if session.is_held_by_code else hit
    return reply


def until(session: Session, words: list[str]) -> Reply:
    goal = read_goal(session, words, "until")
    if not session.knows(goal):
        question = ask_before_going_on(session, f"until {goal.words}")
        if question is not None:
            return question
    reached, hit = session.until(goal)
    reply = moved(session)
    reply.reached = reached
    assert isinstance(reply.data, dict)
    reply.data |= {"until": goal.words, "reached": reached, "break": hit}
    if not reached:
        why = not_yet_known(session, goal) or "nothing is left to run"
        if hit is not None:
            why = f"break {hit} came first"
        elif session.interrupted:
            why = "it was interrupted"
        elif session.steered is None:
            why = f"the recording ends with step {session.history.last}"
        elif session.is_held_by_code:
            why = by_code(session)
            del reply.lines[0]  # says so, too
        reply.lines.insert(0, Text(f"not reached: {goal.words} ({why})", style="bold"))
    return reply


def break_(session: Session, words: list[str]) -> Reply:
    if words == [CODE]:
        session.let_code_be(False)
        return Reply([Text("set_trace in the engine's own code holds it")], {"where": CODE})
    goal = read_goal(session, words, "break")
    n = session.add_break(goal)
    return Reply([Text(f"break {n}: {goal.words}")], {"number": n, "where": goal.words})


def breaks(session: Session, words: list[str]) -> Reply:
    lines = [Text(f"{n:>3}  {goal.words}") for n, goal in session.breaks.items()]
    data = [{"number": n, "where": goal.words} for n, goal in session.breaks.items()]
    lines = lines or [Text("no breaks; break preempt makes one")]
    code = "is let be" if session.lets_code_be else "holds it"
    lines.append(Text(f"{CODE}: set_trace in the engine's own code {code}", style="dim"))
    return Reply(lines, data, title="breaks")


def clear(session: Session, words: list[str]) -> Reply:
    if not words:
        session.breaks.clear()
        return Reply([Text("all breaks are gone")], [])
    if words == [CODE]:
        session.let_code_be()
        told = "set_trace in the engine's own code is let be; break code holds there again"
        return Reply([Text(told)], {"where": CODE})
    n = number(words, "clear", 1, max(session.num_breaks, 1))
    if n not in session.breaks:
        there = ", ".join(map(str, session.breaks)) or "none"
        raise VerbError(f"clear {n}: there is no such break; there are: {there}")
    gone = session.breaks.pop(n)
    return Reply([Text(f"break {n} is gone: {gone.words}")], {"number": n, "where": gone.words})


def read_goal(session: Session, words: list[str], verb: str) -> Until:
    if not words:
        raise VerbError(f"{verb}: which place? such as {verb} preempt; help {verb} lists them")
    given = " ".join(words)
    try:
        goal = parse(given)
    except ConfigError as error:
        allowed = ", ".join(PLACES[0] + PLACES[1])
        raise VerbError(
            f"{verb} {clean(given)}: allowed: such as {allowed}, several joined by or; help {verb}"
        ) from error
    check(session, goal, verb)
    return goal


def ask_before_going_on(session: Session, line: str, live: str = "") -> Reply | None:
    """Where one looks at the past of an engine: what shall go on, that engine or a fork? ``live``:
    the line for that engine, where it is another one than the fork's."""
    if session.steered is None or session.is_newest:
        return None
    newest = session.history.head
    words = f"you look at step {session.step}, the engine stands at {newest}: go on there, or fork?"
    answers = {"live": ["live", live or line], "fork": ["fork", line]}
    return Reply(question=Question(words, answers))
