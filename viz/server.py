"""The dashboard's server: pages (``pages.py``) and the live channel by Socket.IO.

The socket's messages are hello, ack, show, class and command; ``protocol.py``, ``classroom.py`` and
``commands.py`` tell what becomes of them. Nothing here imports torch or an engine: the page opens
long before one is ready, and ``attach_engine`` hands it over. Other blueprints (the OpenAI
endpoint) live in the same app. No counterpart in vLLM. Left out here: TLS and a production web
server; the serving room adds them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engineio.payload import Payload
from flask import Blueprint, Flask, request
from flask_socketio import SocketIO
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from minivllm.learn.lessons import Lessons
from minivllm.setup.progress import EngineStatus, StatusBoard
from minivllm.typed import warm_up
from viz.access import Access, is_loopback, join_link
from viz.classroom import read_message
from viz.commands import BadCommand, CommandThread, LiveEngine, Workbench, gates_json
from viz.forks import read_wish, trace_of
from viz.lessons import add_lesson_pages
from viz.pages import STATIC, add_pages
from viz.protocol import Hub
from viz.runs import Catalogue, LiveRun
from viz.viewers import DEFAULT_LIMIT, ViewerGate
from viz.wire import Wire

LIVE_RUN = "live"


Payload.max_decode_packets = 512
"""By polling, a held key and the acks of a fast run easily are more than the library's 16, and one
too many loses them all. What a payload may hold is bounded by its bytes."""


def _channel_logger() -> logging.Logger:
    """What a stranger sends is no fault of the server: not worth a traceback for each."""
    logger = logging.getLogger("viz.channel")
    logger.setLevel(logging.ERROR)
    if not logger.filters:
        logger.addFilter(lambda record: not str(record.msg).startswith("post request handler"))
    return logger


class BoardApp(Flask):
    """A Flask app with the dashboard in it. Make one with :func:`create_app`."""

    def __init__(
        self,
        catalogue: Catalogue,
        status: StatusBoard | None,
        access: Access,
        workbench: Workbench | None = None,
        max_viewers: int = DEFAULT_LIMIT,
    ) -> None:
        super().__init__("viz", static_folder=str(STATIC), static_url_path="/static")
        self.catalogue, self.status, self.access = catalogue, status, access
        self.workbench = workbench
        self.engine: LiveEngine | None = None
        self.listens_on = "127.0.0.1"
        self.socketio = SocketIO(
            self,
            async_mode="threading",
            serve_client=False,
            async_handlers=False,  # they only queue: not worth a thread for each message
            max_http_buffer_size=512 * 1024,
            engineio_logger=_channel_logger(),
        )
        self.viewers = ViewerGate(self.socketio.server.eio, access, max_viewers)
        self.hub = Hub(catalogue, Wire(self.socketio.server))
        self.commands = CommandThread(
            lambda: self.engine,
            {"simulate": self.simulate, "fork": self.fork},
            lambda sid, result: self.hub.send("result", result, to=sid),
            self.aimed,
        )
        self.goal: dict[str, Any] | None = None
        self._detach_all: list[Callable[[], None]] = []
        self._detach_log: list[Callable[[], None]] = []

    def attach_engine(self, engine: LiveEngine) -> None:
        """Offer a running engine as the run ``live``; a second one takes the first one's place."""
        for detach in self._detach_log:
            detach()
        self.engine = engine
        self.aimed(None)
        self.catalogue.put_live(LiveRun(LIVE_RUN, engine.log))
        self._detach_log = [engine.log.subscribe(self.hub.wake)]
        engine.gate.on_change(lambda mode, rate: self.tell_gate())
        self.tell_gate()
        self.hub.run_changed(LIVE_RUN)
        self.hub.send("runs", {"live": True})

    def simulate(self, wish: Any) -> str:
        """Run ``{"scenario": name, "knobs": {…}}`` with given tokens; returns the new run's id."""
        if self.workbench is None:
            raise BadCommand("simulate: this dashboard only shows runs")
        fields = wish if isinstance(wish, dict) else {}
        scenario, knobs = fields.get("scenario"), fields.get("knobs")
        if not isinstance(scenario, str) or not isinstance(knobs, dict):
            raise BadCommand(f"simulate: got {wish!r}; allowed: a scenario's name and knobs")
        log, changed = self.workbench.simulate(scenario, knobs)
        run_id = self.catalogue.add_simulated(log, changed)
        self.hub.send("runs", {})
        return run_id

    def fork(self, wish: Any) -> dict[str, Any]:
        """Run ``{"run", "stream", "life", "step", "knobs"}`` again, other from that step on.

        Returns the new run's id, and how many of whose tokens are placeholders.
        """
        if self.workbench is None:
            raise BadCommand("fork: this dashboard only shows runs")
        asked = read_wish(wish)
        run = self.catalogue.get(asked.run)
        if run is None:
            raise BadCommand(f"fork: there is no run {asked.run!r} on the server")
        trace = trace_of(run, asked.stream, asked.life)
        log, placeholders = self.workbench.fork(trace, asked.stream, asked.knobs, asked.step)
        run_id = self.catalogue.add_simulated(log, asked.knobs, since=asked.step)
        self.hub.send("runs", {})
        return {"run": run_id, "placeholders": placeholders}

    def tell_gate(self, to: str | None = None) -> None:
        """Whether the live engine runs or is held, and its pace; of several, each."""
        if self.engine is not None:
            self.hub.send("gate", gates_json(self.engine), to=to)

    def aimed(self, goal: dict[str, Any] | None) -> None:
        """Somebody has asked the gate to run until ``{"words", "engine"}``: every page is told."""
        self.goal = goal
        self.hub.send("goal", goal)

    def tell_status(self, status: EngineStatus) -> None:
        self.hub.send("status", status_json(status))

    def start(self) -> None:
        """Start the publisher and the command thread."""
        self.hub.start()
        self.commands.start()
        if self.status is not None:
            self._detach_all.append(self.status.subscribe(self.tell_status))

    def stop(self) -> None:
        for detach in self._detach_all + self._detach_log:
            detach()
        self.viewers.closed = True
        self.commands.stop()
        self.hub.stop()
        # Each open channel holds a thread of the server; not waiting for slow readers.
        for channel in list(self.socketio.server.eio.sockets.values()):
            channel.close(wait=False, abort=True)


def create_app(
    traces: Sequence[Path | str] = (),
    *,
    blueprints: Sequence[Blueprint] = (),
    status: StatusBoard | None = None,
    access: Access | None = None,
    workbench: Workbench | None = None,
    lessons: Lessons | None = None,
    max_viewers: int = DEFAULT_LIMIT,
) -> BoardApp:
    """The dashboard over these trace files.

    ``status``: how far the engine is, if one is to come.
    ``access``: who may look and who may steer; None: who sits at this machine.
    ``workbench``: runs scenarios with other knobs, where that is offered.
    ``lessons``: what the lesson rail shows.
    Raises TraceError when a file is missing; one that is broken says so when it is opened.
    """
    catalogue = Catalogue()
    for path in traces:
        catalogue.add_file(path)
    access = access or Access()
    app = BoardApp(catalogue, status, access, workbench, max_viewers)
    add_pages(app, catalogue, access, workbench)
    add_lesson_pages(app, catalogue, access, lessons)
    add_socket(app)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    warm_up()
    return app


def status_json(status: EngineStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "text": status.text,
        "remedy": status.remedy,
        "done": status.done,
        "total": status.total,
    }


# --- socket ------------------------------------------------------------------------------------


def add_socket(app: BoardApp) -> None:
    """The handlers check and hand on; nothing is emitted here."""
    socketio = app.socketio

    @socketio.on("connect")
    def connect() -> bool | None:
        if not app.access.may_look(request):
            return False
        sid = request.sid  # type: ignore[attr-defined]
        if app.status is not None:
            app.hub.send("status", status_json(app.status.get()), to=sid)
        driver = app.access.may_steer(request)
        join = join_link(app.access, app.listens_on, request.host) if driver else None
        app.hub.send("role", {"driver": driver, "join": join}, to=sid)
        app.tell_gate(to=sid)
        app.hub.send("goal", app.goal, to=sid)
        return None

    @socketio.on("disconnect")
    def disconnect(*_reason: object) -> None:
        app.hub.leave(request.sid)  # type: ignore[attr-defined]
        app.commands.holds.gone(request.sid)  # type: ignore[attr-defined]

    @socketio.on("hello")
    def hello(message: object = None, *_more: object) -> None:
        if isinstance(message, dict) and isinstance(message.get("run"), str):
            streams = message.get("streams")
            known = {
                str(stream): {"life": at["life"], "seq": at["seq"]}
                for stream, at in (streams.items() if isinstance(streams, dict) else ())
                if isinstance(at, dict)
                and type(at.get("seq")) is int
                and type(at.setdefault("life", None)) in (int, type(None))
            }
            clean = {"run": message["run"], "epoch": message.get("epoch"), "streams": known}
            clean["inflates"] = message.get("inflates") is True
            app.hub.hello(request.sid, clean)  # type: ignore[attr-defined]

    # As many as batches, and they ask for nothing: below Flask, without a request context for each.
    @socketio.server.on("ack")
    def ack(sid: str, message: object = None, *_more: object) -> None:
        if isinstance(message, dict) and type(message.get("to")) is int:
            stream, life = str(message.get("stream")), message.get("life")
            life = life if type(life) is int else None
            app.hub.ack(sid, stream, message["to"], life)

    @socketio.on("show")
    def show(message: object = None, *_more: object) -> None:
        if isinstance(message, dict):
            app.hub.show(request.sid, message.get("hidden") is True)  # type: ignore[attr-defined]

    @socketio.on("class")
    def of_class(message: object = None, *_more: object) -> None:
        known = read_message(message)
        if known is not None:
            sid = request.sid  # type: ignore[attr-defined]
            driver, voter = app.access.may_steer(request), app.access.voter(request)
            app.hub.of_class(sid, known, driver, voter)

    @socketio.on("command")
    def command(message: object = None, *_more: object) -> None:
        if not isinstance(message, dict):
            return
        sid = request.sid  # type: ignore[attr-defined]
        if not app.access.may_steer(request):
            refusal = {"id": message.get("id"), "ok": False}
            error = (
                "only the driver may steer the engine: at the machine itself, or by /?driver=CODE"
            )
            app.hub.send("result", {**refusal, "error": error}, to=sid)
            return
        app.commands.put(sid, message)


# --- serving -----------------------------------------------------------------------------------


class _QuietHandler(WSGIRequestHandler):
    """Does not print a line for each request."""

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


class Server:
    """The app on a port, on a thread of its own."""

    def __init__(self, app: BoardApp, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Raises OSError when the port is taken; port 0 takes any free one."""
        if not is_loopback(host) and app.access.join_code is None:
            raise ValueError(f"to listen on {host}, set a join code for the viewers")
        self.app = app
        app.listens_on = host
        self._wsgi: BaseWSGIServer = make_server(
            host, port, app, threaded=True, request_handler=_QuietHandler
        )
        self.host, self.port = host, self._wsgi.server_port
        self._thread = threading.Thread(
            target=self._wsgi.serve_forever, name="viz-http", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def start(self) -> Server:
        self.app.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        self._wsgi.shutdown()
        self._wsgi.server_close()
        self.app.stop()
