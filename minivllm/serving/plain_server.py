"""werkzeug's server: the fallback where gunicorn does not run, and the one without a second
process.

One thread per connection, so the limits of streams and viewers hold here, too, but not the number
of threads. No counterpart in vLLM.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from minivllm.api.server import RequestHandler, http_server_on
from minivllm.serving.front import FrontEnd
from minivllm.serving.settings import ServeSettings


def run(
    listener: socket.socket,
    settings: ServeSettings,
    make_front: Callable[[], FrontEnd],
    tell_ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends the process at once."""
    stop = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signum, signal.SIG_DFL)

    RequestHandler.timeout = settings.send_timeout_s
    before = {sign: signal.signal(sign, ask) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        front = make_front()
        try:
            server = http_server_on(front.wsgi, listener)
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
            tell_ready()
            while not stop.wait(1.0):  # short naps: a plain wait can hold back a signal's handler
                pass
            front.end()
            server.shutdown()
            server.server_close()
        finally:
            front.end()
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
