"""What ``serve``, ``demo`` and ``view`` share: a port that is free, who is let in, a clean end."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.api.address import bind

if TYPE_CHECKING:
    from viz.access import Access

EVERY_NETWORK = "0.0.0.0"

HostFlag = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; 0.0.0.0: every network of this machine. On another than this "
        "machine's own, who looks needs the join code. Default: 127.0.0.1."
    ),
]
ClassFlag = Annotated[
    bool,
    typer.Option(
        "--class",
        help="Lead a class: listen on every network, print the link and the join code for the "
        "students, and open the page that leads them.",
    ),
]


@dataclass(frozen=True, slots=True)
class Room:
    """Where a dashboard is served, and to whom."""

    host: str
    access: Access
    leads: bool

    @staticmethod
    def of(host: str | None, leads: bool) -> Room:
        from viz.access import Access, is_loopback
        from viz.join import new_join_code

        host = host or (EVERY_NETWORK if leads else "127.0.0.1")
        if is_loopback(host):
            return Room(host, Access(), leads)
        driver = secrets.token_urlsafe(16)
        return Room(host, Access(new_join_code(), driver_code=driver), leads)

    def links(self, port: int) -> tuple[str, str]:
        """The page of whoever started the server, and what to say in the terminal."""
        from viz.join import is_any, reachable

        lead = "?lead" if self.leads else ""
        code = self.access.join_code
        if code is None:
            own = f"http://{reachable(self.host)}:{port}/{lead}"
            return own, own
        base = f"http://{reachable(self.host)}:{port}/"
        here = f"http://127.0.0.1:{port}/{lead}" if is_any(self.host) else None
        driver = f"{base}?driver={self.access.driver_code}{'&lead' if self.leads else ''}"
        words = f"{here or driver}\n  students: {base}   join code: {code}"
        return here or driver, words + (f"\n  you, elsewhere: {driver}" if here else "")


def check_port(host: str, port: int) -> None:
    """Raise ConfigError, with a remedy, if nobody could listen there.

    Asked before the model is loaded: who waits for a load should not learn of it afterwards.
    """
    bind(host, port).close()


@contextlib.contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the end is an ordinary path of the program.

    A second Ctrl-C ends the process at once.
    """
    stop = threading.Event()

    def ask(signum: int, frame: object) -> None:
        stop.set()
        signal.signal(signum, signal.SIG_DFL)

    before = {sign: signal.signal(sign, ask) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def wait(stop: threading.Event) -> None:
    """Sleep until ``stop``; in short naps, since a plain wait can hold back a signal's handler."""
    while not stop.wait(1.0):
        pass


def open_browser(url: str) -> None:
    """In a graphical browser, if there is one: a text browser would take over this terminal."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if not isinstance(found, webbrowser.GenericBrowser) or isinstance(
        found, webbrowser.BackgroundBrowser
    ):
        threading.Thread(target=found.open, args=(url,), daemon=True).start()
