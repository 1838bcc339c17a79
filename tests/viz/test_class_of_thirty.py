"""A class of thirty on a real server: led, let go, asked, counted; and nobody is flooded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import socketio

from tests.viz.test_classroom import ASK
from viz.server import Server, create_app

STUDENTS = 30
MOVES = 200


class Page:
    """As the dashboard's page does in a class."""

    def __init__(self, me: str) -> None:
        self.me, self.heard = me, []
        self.client = socketio.AsyncClient(reconnection=False)
        for name in ("class", "cursor", "crowd", "question", "reveal"):
            self.client.on(name, lambda message, name=name: self.heard.append((name, message)))

    async def open(self, url: str) -> None:
        await self.client.connect(url, transports=["websocket"])
        await self.say(op="hello", me=self.me, ticket=None)

    async def say(self, **message: Any) -> None:
        await self.client.emit("class", message)

    def last(self, name: str) -> Any:
        return next((message for heard, message in reversed(self.heard) if heard == name), None)


async def until(holds: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not holds():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), 60)


async def hold_class(url: str) -> None:
    teacher, students = Page("teacher"), [Page(f"s{n}") for n in range(STUDENTS)]
    await teacher.open(url)
    await teacher.say(op="take")
    for student in students:
        await student.open(url)
    for step in range(MOVES):
        await teacher.say(op="cursor", place=f"#/run/tiny-pressure/step/{step}")
        await asyncio.sleep(0.005)
    last = f"#/run/tiny-pressure/step/{MOVES - 1}"
    await until(lambda: all((s.last("cursor") or {}).get("place") == last for s in students))
    assert all(len([h for h in s.heard if h[0] == "cursor"]) < MOVES / 2 for s in students)

    for student in students[:10]:
        await student.say(op="follow", on=False)
    await until(lambda: teacher.last("crowd")["free"] == 10)
    assert teacher.last("crowd")["following"] == 20

    await teacher.say(**ASK)
    await until(lambda: all(s.last("question") for s in students))
    for number, student in enumerate(students):
        choice = "r4" if number % 3 else "r1"
        await student.say(op="vote", id=student.last("question")["id"], choice=choice)
    await until(lambda: teacher.last("crowd")["votes"] == STUDENTS)
    await teacher.say(op="reveal", answer=["r4"], told="")
    await until(lambda: all(s.last("reveal") for s in [teacher, *students]))
    assert all(s.last("reveal")["tally"] == {"r1": 10, "r4": 20} for s in [teacher, *students])
    await asyncio.gather(*(page.client.disconnect() for page in [teacher, *students]))


def test_thirty_follow_and_vote_and_get_no_more_than_the_latest_place(tiny_pressure: Path) -> None:
    server = Server(create_app([tiny_pressure]), port=0).start()
    try:
        with ThreadPoolExecutor(1) as thread:  # this one's may have a browser's loop running
            thread.submit(asyncio.run, hold_class(server.url)).result()
    finally:
        server.stop()
