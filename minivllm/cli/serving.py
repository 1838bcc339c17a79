"""What ``serve``, ``demo`` and ``view`` share: a port that is free, and an end that is clean."""

from __future__ import annotations

import contextlib
import signal
import threading
import webbrowser
from collections.abc import Iterator

from minivllm.api.address import bind


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
