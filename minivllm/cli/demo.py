"""``minivllm demo``: the dashboard at once, on a recorded run; the live engine as soon as it can.

The page needs neither torch nor a model. Stages 2 and 3 of the set-up, and then the loading, run
on a thread behind it and tell how far they are in the page and in the terminal. What fails there
is told there, with its remedy; the recording plays on.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import minivllm
from minivllm.cli.options import engine_flags
from minivllm.cli.serving import (
    ClassFlag,
    HostFlag,
    Room,
    check_port,
    open_browser,
    until_interrupted,
    wait,
)
from minivllm.errors import MiniVLLMError, TraceError

if TYPE_CHECKING:
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.serving.late_endpoint import LateEndpoint
    from minivllm.setup.progress import StatusBoard
    from viz.server import BoardApp

RECORDING = Path(minivllm.__file__).parent / "gallery" / "tiny-pressure.trace.jsonl"
WORKLOAD = "shared-prefix"
RATE = 2.0
"""Steps per second of the live engine: full speed is a blur; the page can change it."""
STOP_PATIENCE_S = 5.0


@engine_flags
def demo(
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any free one.")] = 8000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--no-live", help="Also set up and run the engine; without: the recording."
        ),
    ] = True,
    host: HostFlag = None,
    leads: ClassFlag = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Open the dashboard on a recorded run, and run the engine live behind it.

    The recording, tiny-pressure, is five requests that share 15 blocks; the others of the gallery
    stand beside it in the page (R). Meanwhile torch and the
    model are installed, if they are not there yet, and the engine is started: eight prompts that
    share a prefix then run in the page at 2 steps a second, its Playground chats with the model,
    and /v1 answers any client on this machine. Ctrl-C ends everything.
    """
    from minivllm.cli.workbench import ScenarioBench
    from minivllm.learn.lessons import find_lessons
    from minivllm.serving.late_endpoint import LateEndpoint
    from minivllm.setup.bootstrap import engine_is_installed
    from minivllm.setup.environment import Environment
    from minivllm.setup.progress import EngineStatus, StatusBoard, TerminalReporter
    from viz.server import Server, create_app

    room = Room.of(host, leads)
    check_port(room.host, port)
    if not RECORDING.is_file():
        raise TraceError(
            f"{RECORDING} is missing; make it: minivllm trace record {RECORDING.name.split('.')[0]}"
            f" -o {RECORDING}"
        )
    installed = engine_is_installed(Environment())
    board = StatusBoard(EngineStatus.loading() if installed else EngineStatus.installing())
    lessons = find_lessons()
    app = create_app(
        recordings(),
        status=board if live else None,
        access=room.access,
        workbench=ScenarioBench(lessons),
        lessons=lessons,
    )
    endpoint = LateEndpoint(app.wsgi_app, room.access, room.host)
    app.wsgi_app = endpoint  # type: ignore[method-assign]
    background = Background(app, endpoint, board, engine)
    unwatch: Callable[[], None] = lambda: None  # noqa: E731
    with until_interrupted() as stop:
        server = Server(app, room.host, port).start()
        try:
            url, words = room.links(server.port)
            typer.echo(f"minivllm demo: {words}   (Ctrl-C ends)", err=True)
            if live:
                unwatch = board.subscribe(TerminalReporter())
                background.start()
            if browser:
                open_browser(url)
            wait(stop)
            typer.echo("\nending", err=True)
        finally:
            unwatch()  # what fails from here on fails because it was ended
            server.stop()
            ended = background.stop()
    if not ended:
        sys.stderr.flush()
        os._exit(0)  # a model that is being loaded cannot be called back; nothing of it is open


def recordings() -> list[Path]:
    """The gallery, as ``view`` shows it; the tour's first, since the page opens on the first."""
    from minivllm.trace.gallery import gallery

    return [RECORDING, *(path for path in gallery().values() if path != RECORDING)]


class Background:
    """Stages 2 and 3 and the loading, on a thread; at its end the engine is the page's."""

    def __init__(
        self, app: BoardApp, endpoint: LateEndpoint, board: StatusBoard, engine: dict[str, Any]
    ) -> None:
        self._app, self._endpoint, self._board, self._engine = app, endpoint, board, engine
        self._stopping = threading.Event()
        self._llm: AsyncLLM | None = None
        self._thread = threading.Thread(target=self._run, name="engine-setup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """End what is under way: a pip that runs, an engine that runs. False: it is just being
        loaded, and goes on with that."""
        from minivllm.setup.pip import stop_running

        self._stopping.set()
        patience = time.monotonic() + STOP_PATIENCE_S
        while self._thread.is_alive() and time.monotonic() < patience:
            stop_running()  # again, because set-up may just be between two runs of pip
            self._thread.join(0.2)
        if self._llm is not None:
            self._llm.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        from minivllm.setup.bootstrap import prepare_engine
        from minivllm.setup.progress import EngineStatus

        try:
            prepare_engine(self._board)
            if self._stopping.is_set():
                return
            self._board.set(EngineStatus.loading())
            self._load()
        except Exception as error:  # the page plays on, whatever it was
            if not self._stopping.is_set() and self._board.get().state != "failed":
                self._board.set(EngineStatus.failed(*told(error)))
        else:
            if not self._stopping.is_set():
                self._board.set(EngineStatus.ready())

    def _load(self) -> None:
        """Start the engine with the workload's knobs, overridden by the command line's."""
        from minivllm.config import make_config
        from minivllm.engine.async_llm import AsyncLLM
        from minivllm.scenario import load_scenario
        from minivllm.serving.live import DashboardEngine
        from minivllm.trace.gate import Gate

        gate = Gate(rate=RATE)
        knobs = {**load_scenario(WORKLOAD).engine, **self._engine, "live": True}
        config = make_config(**knobs)
        self._llm = AsyncLLM(config, gate=gate)
        if not self._stopping.is_set():
            self._endpoint.attach(self._llm, config.model.model)
            self._app.attach_engine(DashboardEngine(self._llm))


def told(error: Exception) -> tuple[str, str]:
    """What failed, and a remedy that fits it: nobody shall delete what a full disk has spared."""
    what, _, remedy = str(error).partition("\nwhat to do: ")
    if isinstance(error, MiniVLLMError):
        return what, remedy or "mend that, then start the demo again"
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return what, "free some space (300 MB for the model), then start the demo again"
        return what, "check the file it names, then start the demo again"
    if isinstance(error, ImportError):  # a package is there, but not whole
        return what, "delete .venv and start the demo again"
    if isinstance(error, MemoryError):
        return what, "close other programs, or give a smaller --kv-cache-memory"
    logging.getLogger(__name__).error("the engine could not be started", exc_info=error)
    return what, "this is a fault of minivllm: report it with what the terminal says"
