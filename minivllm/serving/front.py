"""FrontEnd: the engines, the endpoint and the dashboard as one WSGI application, and its end.

    OpenResponses ─ Door ─ Flask ┬─ api/    OpenAI's routes, keys, limits
     (counts)    (hosts, log)    ├─ viz/    the page, its data, its channel
                                 └─ admin   engines: drain, resume, restart

Which HTTP server carries it is decided elsewhere (``gunicorn_server.py``, ``plain_server.py``).
Counterpart in vLLM: ``build_app`` and ``setup_server`` in
``vllm/entrypoints/openai/api_server.py``.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from minivllm.api.admin import create_admin_blueprint
from minivllm.api.auth import KeyRing
from minivllm.api.limits import Limits, OpenRequests
from minivllm.api.metrics import ServerMetrics
from minivllm.api.open_responses import OpenResponses
from minivllm.api.server import create_blueprint
from minivllm.config import EngineConfig
from minivllm.engine.async_llm import AsyncLLM
from minivllm.learn.lessons import find_lessons
from minivllm.serving.door import Door
from minivllm.serving.late_endpoint import LIFE_PAGE
from minivllm.serving.live import DashboardEngine
from minivllm.serving.settings import ServeSettings
from minivllm.setup.progress import EngineStatus, StatusBoard
from minivllm.trace.gate import Gate
from viz.access import Access, is_loopback
from viz.commands import Workbench
from viz.join import new_join_code
from viz.server import BoardApp, create_app

logger = logging.getLogger(__name__)

StartEngine = Callable[[EngineConfig, Gate], AsyncLLM]

LAST_WORDS_S = 5.0
"""How long the end waits for cancelled requests to be written out: a reader that is stuck is left
behind."""

PAGE_ENDPOINTS = (
    "index",
    "projector",
    "attention",
    "icon",
    "static",
    "list_runs",
    "events",
    "snapshot",
    "find",
    "tour",
    "export",
    "list_artifacts",
    "artifact",
    "attention",
    "workbench_offers",
    "worksheet",
    "own_offers",
    "run_own",
    "own_file",
    "list_lessons",
    "lesson",
)
"""Routes of the dashboard that need no API key: the page itself, and its data, which have an access
rule of their own (``viz/access.py``)."""


@dataclass(frozen=True, slots=True)
class Codes:
    """What the links to the dashboard carry; made once, before any process is."""

    join: str
    driver: str

    @staticmethod
    def fresh() -> Codes:
        return Codes(new_join_code(), secrets.token_urlsafe(16))


class FrontEnd:
    """All that one serving process holds. :meth:`end` it, or its engines run on."""

    def __init__(
        self,
        config: EngineConfig,
        settings: ServeSettings,
        codes: Codes,
        start_engine: StartEngine,
        workbench: Workbench | None = None,
    ) -> None:
        """Starts the engines; raises what they cannot start by."""
        self.settings = settings
        self._requests = OpenRequests(settings.max_streams)
        self._end_lock = threading.Lock()
        self._ended = False
        self.llm = start_engine(config, Gate(rate=settings.rate))
        try:
            self.llm.queue.limit = settings.max_queue_size
            self._model = settings.served_model_name or config.model.model
            self.metrics = ServerMetrics(self.llm, self._model)
            self.app = self._build(codes, workbench)
            self.wsgi = OpenResponses(Door(self.app, settings, self.metrics.answered))
            self.app.listens_on = settings.host
            self.app.attach_engine(DashboardEngine(self.llm))
            self.app.start()
        except BaseException:
            self.llm.close()
            raise

    def end(self, at_once: bool = False) -> None:
        """Nobody new, then who is here finishes or is cancelled, then the engines end.

        Until the last answer is out the server answers: that it lives, and that it is not ready.
        """
        with self._end_lock:
            if self._ended:
                return
            self._ended = True
            self._requests.refuse_new()
            logger.info("ending; requests that are under way: %d", self._requests.count)
            self.app.stop()  # pages first: an open channel would hold its thread for ever
            timeout_s = 0.0 if at_once else self.settings.shutdown_timeout_s
            if not self._requests.wait_for_none(timeout_s):
                logger.info("cancelling what is not finished: %d", self._requests.count)
            self.llm.close()  # streams that are left end, each with its last frame
            self.wsgi.wait(LAST_WORDS_S)

    def _build(self, codes: Codes, workbench: Workbench | None) -> BoardApp:
        settings = self.settings
        access = make_access(settings, codes)
        limits = Limits(self._requests, request_timeout_s=settings.request_timeout_s)
        self.llm.gate.on_change(limits.clock.on_gate)
        endpoint = create_blueprint(
            self.llm,
            served_model_name=self._model,
            api_keys=settings.api_keys,
            open_endpoints=PAGE_ENDPOINTS,
            max_body_bytes=settings.max_body_bytes,
            metrics=self.metrics,
            limits=limits,
            life_page=LIFE_PAGE,
            is_insider=access.may_steer,
        )
        return create_app(
            settings.open_traces,
            blueprints=[endpoint, create_admin_blueprint(self.llm, access.may_steer)],
            status=StatusBoard(EngineStatus.ready()),
            access=access,
            workbench=workbench,
            lessons=find_lessons(),
            max_viewers=settings.max_viewers,
        )


def make_access(settings: ServeSettings, codes: Codes) -> Access:
    """Without keys, on the loopback address, whoever sits at this machine looks and steers."""
    if is_open_here(settings):
        return Access()
    keys = KeyRing(settings.api_keys)
    return Access(
        codes.join,
        code_for_all=keys.required,
        driver_code=codes.driver,
        has_key=lambda header: keys.required and keys.allows(header),
    )


def is_open_here(settings: ServeSettings) -> bool:
    return is_loopback(settings.host) and not settings.api_keys
