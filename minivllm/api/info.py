"""The routes that tell: models, health, load, version … None of them waits for the engine.

Counterpart in vLLM: ``vllm/entrypoints/serve/instrumentator/`` and
``vllm/entrypoints/openai/models/api_router.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response

import minivllm
from minivllm.api import openapi
from minivllm.api.answers import EngineLoad, Health, Load, ModelList, Version
from minivllm.api.errors import ApiError, busy, json_response
from minivllm.api.service import Service
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.client import EngineStatus
from minivllm.engine.messages import SchedulerStats
from minivllm.errors import EngineDeadError, EngineUnavailableError


@dataclass(slots=True)
class InfoRoutes:
    service: Service

    def add_to(self, bp: Blueprint) -> None:
        bp.get("/v1/models", endpoint="models")(self.models)
        bp.get("/v1/models/<path:model>", endpoint="model")(self.model)
        bp.get("/health", endpoint="health")(self.health)
        bp.get("/ping", endpoint="ping")(self.health)
        bp.get("/ready", endpoint="ready")(self.ready)
        bp.get("/version", endpoint="version")(self.version)
        bp.get("/load", endpoint="load")(self.load)
        bp.get("/openapi.json", endpoint="openapi")(self.openapi)

    def models(self) -> Response:
        return json_response(ModelList(data=[self.service.card()]))

    def model(self, model: str) -> Response:
        self.service.check_model(model)
        return json_response(self.service.card())

    def health(self) -> Response:
        """200 while the engine lives, paused or not; 503 once it is dead."""
        if self.service.llm.is_dead:
            raise ApiError(503, "The engine is not running any more.", code="engine_dead")
        return json_response(Health())

    def ready(self) -> Response:
        """200 while requests are taken. Not so from the moment on at which the server is told to
        end, though it is healthy until its last answer is out."""
        if self.service.limits.open_requests.ending:
            raise busy("The server is shutting down and takes no new requests.", "ending")
        try:
            self.service.llm.check_ready()
        except (EngineDeadError, EngineUnavailableError):
            raise busy("No engine takes requests at the moment.", "no_engine") from None
        return json_response(Health())

    def version(self) -> Response:
        return json_response(Version(version=minivllm.__version__))

    def load(self) -> Response:
        return json_response(load_of(self.service.llm))

    def openapi(self) -> Response:
        return Response(openapi.encoded(), mimetype="application/json")


def load_of(llm: AsyncLLM) -> Load:
    """What a router in front of several servers asks each of them."""
    newest = llm.stats()
    return Load(
        server_load=llm.num_open,
        engines=[_load_of(engine, newest.get(engine.engine)) for engine in llm.client.engines()],
    )


def _load_of(engine: EngineStatus, stats: SchedulerStats | None) -> EngineLoad:
    """``stats``: None before its first step."""
    stats = stats or SchedulerStats.empty(engine.engine)
    return EngineLoad(
        engine=engine.engine,
        state=engine.state,
        epoch=engine.epoch,
        open_requests=engine.open_requests,
        running=stats.num_running_reqs,
        waiting=stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
        kv_cache_usage=stats.kv_cache_usage,
    )
