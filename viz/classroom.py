"""The class: one page leads, the others follow it and answer its questions. Nobody has a name.

All of it happens on the publisher's thread (``protocol.py``), turn by turn, and each message goes
out as the same bytes to all. Whether it follows or has let go is each page's to say; the one that
leads is told how many they are.

    page   → class {op: hello, ticket}          I am here; ticket: of the one who led
             class {op: take} | {op: drop}      lead, or stop it (drivers only)
             class {op: cursor, place, playing, speed, upto}     where the one who leads stands
             class {op: follow, on}
             class {op: ask, ask, choices, place}                a question for all
             class {op: vote, id, choice}
             class {op: reveal, answer, told} | {op: close}
    server → class {leads, led, gone, ticket, note, asked}    leads: you do; led: somebody is there
                                                who does; gone: who led is away, and may come back;
                                                asked: a question stands
             cursor {place, playing, speed, upto}     ten times a second at most, then the latest
             crowd {following, free, votes, tally}    to the one who leads
             question {id, ask, choices, yours, place} | null
             reveal {id, answer, told, tally}

A place is an address in the page (``#/run/tiny-pressure/step/8``). ``upto``: the step beyond which
a page shows nothing, while it is asked what comes next.

Who votes is what the server knows of a page (``access.py``: a signed cookie, the same after a
reload and in a second tab), never what the page says. A vote counts while a page of its voter is
here, so there are never more votes than pages. A leader that does not come back in half a minute
has ended the class: nobody stays blind for a question that nobody will answer. No counterpart in
vLLM.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

CURSOR_SECONDS = 0.1
CROWD_SECONDS = 0.25
AWAY_SECONDS = 30.0
"""So long a class waits for its leader's page."""
VOTERS_KEPT = 1000

Send = Callable[[str, Any, Iterable[str]], None]
"""``send(event, payload, sids)``"""

Words = Annotated[str, msgspec.Meta(max_length=2000)]
Name = Annotated[str, msgspec.Meta(max_length=300)]


class Hello(msgspec.Struct, tag_field="op", tag="hello", frozen=True):
    ticket: Name | None = None


class Take(msgspec.Struct, tag_field="op", tag="take", frozen=True):
    pass


class Drop(msgspec.Struct, tag_field="op", tag="drop", frozen=True):
    pass


class CursorAt(msgspec.Struct, tag_field="op", tag="cursor", frozen=True):
    place: Words
    playing: bool = False
    speed: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 1.0
    upto: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None


class Follow(msgspec.Struct, tag_field="op", tag="follow", frozen=True):
    on: bool


class Choice(msgspec.Struct, frozen=True):
    id: Name
    text: Name


class Ask(msgspec.Struct, tag_field="op", tag="ask", frozen=True):
    ask: Words
    choices: Annotated[list[Choice], msgspec.Meta(min_length=2, max_length=12)]
    place: Words = ""


class Vote(msgspec.Struct, tag_field="op", tag="vote", frozen=True):
    id: int
    choice: Name


class Reveal(msgspec.Struct, tag_field="op", tag="reveal", frozen=True):
    answer: Annotated[list[Name], msgspec.Meta(max_length=12)]
    told: Words = ""


class Close(msgspec.Struct, tag_field="op", tag="close", frozen=True):
    pass


Message = Hello | Take | Drop | CursorAt | Follow | Ask | Vote | Reveal | Close
LEADERS = (Drop, CursorAt, Ask, Reveal, Close)
"""What only the one who leads may say."""


def read_message(given: Any) -> Message | None:
    """None for what is of none of these forms: a page of another version."""
    try:
        message: Message = msgspec.convert(given, Message)
    except msgspec.ValidationError:
        return None
    return message


@dataclass(slots=True)
class Member:
    """One page."""

    voter: str
    follows: bool = True


@dataclass(slots=True)
class Question:
    id: int
    asked: Ask
    votes: dict[str, str] = field(default_factory=dict)
    """Voter → the choice it has come to, those who are away included."""

    def tally(self, here: set[str]) -> dict[str, int]:
        """Of the voters who are here."""
        counts = Counter(choice for voter, choice in self.votes.items() if voter in here)
        return {choice.id: counts[choice.id] for choice in self.asked.choices}


class Classroom:
    """Only for the publisher's thread. ``flush`` sends what has been held back."""

    def __init__(self, send: Send, now: Callable[[], float] = time.monotonic) -> None:
        self._send, self._now = send, now
        self._members: dict[str, Member] = {}
        self._leader: str | None = None
        self._ticket: str | None = None
        """Of the one who leads or, gone for now, led last."""
        self._cursor: CursorAt | None = None
        self._question: Question | None = None
        self._asked = 0
        self._unsent: dict[str, float] = {}
        """What has changed (cursor, crowd, away) → when it may go out."""
        self._sent: dict[str, float] = {}

    # --- what pages say --------------------------------------------------------------------------

    def take(self, sid: str, message: Message, driver: bool, voter: str | None = None) -> None:
        """``driver``: may this page steer? ``voter``: whose page it is; None: nobody knows."""
        if isinstance(message, Hello):
            return self._hello(sid, message, driver, voter or sid)
        member = self._members.get(sid)
        if member is None or (isinstance(message, LEADERS) and sid != self._leader):
            return None
        match message:
            case Take():
                if driver:
                    self._lead(sid, secrets.token_urlsafe(16))
            case Drop():
                self._part("The class is over.")
            case CursorAt():
                self._cursor = message
                self._hold("cursor", CURSOR_SECONDS)
            case Follow(on=on):
                member.follows = on
                if on and self._cursor is not None and self._leader is not None:
                    self._send("cursor", msgspec.to_builtins(self._cursor), [sid])
                self._hold("crowd", CROWD_SECONDS)
            case Ask():
                self._asked += 1
                self._question = Question(self._asked, message)
                self._tell_question(self._members)
                self._hold("crowd", CROWD_SECONDS)
            case Vote():
                self._vote(sid, member, message)
            case Reveal():
                self._reveal(message)
            case Close():
                self._close()
        return None

    def leave(self, sid: str) -> None:
        if self._members.pop(sid, None) is None:
            return
        if sid == self._leader:  # perhaps only to reload its page: it has a ticket
            self._leader = None
            self._unsent["away"] = self._now() + AWAY_SECONDS
            self._tell(self._members)
        self._hold("crowd", CROWD_SECONDS)

    def _hello(self, sid: str, hello: Hello, driver: bool, voter: str) -> None:
        self._members[sid] = Member(voter)
        given, ticket = hello.ticket or "", self._ticket
        if driver and given and ticket is None:  # led a class on the server before this one
            self._lead(sid, secrets.token_urlsafe(16))
        elif driver and ticket is not None and hmac.compare_digest(given.encode(), ticket.encode()):
            self._lead(sid, ticket)
        else:
            over = "The class has ended, and this page may not lead another."
            self._tell([sid], ("Somebody else leads now." if ticket else over) if given else "")
            if self._leader is not None and self._cursor is not None:
                self._send("cursor", msgspec.to_builtins(self._cursor), [sid])
        self._tell_question([sid])
        self._hold("crowd", CROWD_SECONDS)

    # --- who leads -------------------------------------------------------------------------------

    def _lead(self, sid: str, ticket: str) -> None:
        before, self._leader = self._leader, sid
        self._unsent.pop("away", None)
        if ticket != self._ticket:  # another one's: its cursor is to come
            self._ticket, self._cursor = ticket, None
            self._close()
        if before not in (None, sid):
            self._tell([before], "Somebody else has taken the lead.")
        self._tell([sid], "You have taken the lead from another page." if before else "")
        self._tell(self._members.keys() - {sid, before})
        self._hold("crowd", CROWD_SECONDS)

    def _part(self, note: str) -> None:
        self._close()
        self._leader = self._ticket = self._cursor = None
        self._unsent.pop("away", None)
        self._tell(self._members, note)

    def _tell(self, sids: Iterable[str | None], note: str = "") -> None:
        led = self._leader is not None
        others = [sid for sid in sids if sid is not None and sid != self._leader]
        if others:
            about = {"leads": False, "led": led, "ticket": None, "note": note}
            self._send("class", {**about, "gone": not led and self._ticket is not None}, others)
        if self._leader is not None and self._leader in sids:
            about = {"leads": True, "led": True, "ticket": self._ticket, "note": note}
            asked = self._question is not None
            self._send("class", {**about, "gone": False, "asked": asked}, [self._leader])

    # --- questions -------------------------------------------------------------------------------

    def _vote(self, sid: str, member: Member, vote: Vote) -> None:
        question = self._question
        if question is None or question.id != vote.id or sid == self._leader:
            return
        if all(vote.choice != choice.id for choice in question.asked.choices):
            return
        question.votes[member.voter] = vote.choice
        if len(question.votes) > VOTERS_KEPT:  # of pages that came and went
            here = self._voters()
            question.votes = {who: said for who, said in question.votes.items() if who in here}
        self._hold("crowd", CROWD_SECONDS)

    def _reveal(self, reveal: Reveal) -> None:
        question, self._question = self._question, None
        if question is not None:
            told = {"id": question.id, "answer": reveal.answer, "told": reveal.told}
            tally = question.tally(self._voters())
            self._send("reveal", {**told, "tally": tally}, list(self._members))

    def _close(self) -> None:
        if self._question is not None:
            self._question = None
            self._send("question", None, list(self._members))

    def _tell_question(self, sids: Iterable[str]) -> None:
        """One message for all who have not voted yet; to who has, what it was."""
        if self._question is None:
            return
        about = {"id": self._question.id, **msgspec.to_builtins(self._question.asked)}
        del about["op"]
        voted = {sid: self._question.votes.get(self._members[sid].voter) for sid in sids}
        for yours in set(voted.values()):
            those = [sid for sid, vote in voted.items() if vote == yours]
            self._send("question", {**about, "yours": yours}, those)

    # --- what is held back -----------------------------------------------------------------------

    def _hold(self, name: str, seconds: float) -> None:
        self._unsent.setdefault(name, self._sent.get(name, float("-inf")) + seconds)

    def due_in(self) -> float | None:
        """Seconds until there is something to send; None: nothing is held back."""
        if not self._unsent:
            return None
        return max(min(self._unsent.values()) - self._now(), 0.0)

    def flush(self) -> None:
        now = self._now()
        for name in [name for name, due in self._unsent.items() if due <= now]:
            del self._unsent[name]
            if name == "away":
                self._part("The teacher’s page has not come back: the class is over.")
                break
            self._sent[name] = now
            if self._leader is None:
                continue
            if name == "crowd":
                self._send("crowd", self._crowd(), [self._leader])
            elif self._cursor is not None:
                # Those who have let go, too: what lies ahead is hidden from all (``upto``).
                others = [sid for sid in self._members if sid != self._leader]
                self._send("cursor", msgspec.to_builtins(self._cursor), others)

    def _voters(self) -> set[str]:
        """Of the pages that are here, but for the leader's."""
        return {member.voter for sid, member in self._members.items() if sid != self._leader}

    def _crowd(self) -> dict[str, Any]:
        others = [member for sid, member in self._members.items() if sid != self._leader]
        following = sum(member.follows for member in others)
        crowd = {"following": following, "free": len(others) - following, "votes": 0, "tally": {}}
        if self._question is not None:
            tally = self._question.tally(self._voters())
            crowd |= {"votes": sum(tally.values()), "tally": tally}
        return crowd
