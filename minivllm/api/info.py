"""The routes that tell: models, health, load, version … None of them waits for the engine.

Counterpart in vLLM: ``vllm/entrypoints/serve/instrumentator/`` and
``vllm/entrypoints/openai/models/api_router.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Request, Response, request

import minivllm
from minivllm.api import openapi
from minivllm.api.answers import ModelList, Version
from minivllm.api.errors import busy, json_response
from minivllm.api.load import health_of, load_of
from minivllm.api.service import Service
from minivllm.errors import EngineDeadError, EngineUnavailableError


@dataclass(slots=True)
class InfoRoutes:
    service: Service
    is_insider: Callable[[Request], bool]
    """May this request's sender know of the server's inside?"""

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
        in_full = self.is_insider(request)
        return json_response(health_of(self.service.llm, ending=self._ending, in_full=in_full))

    def ready(self) -> Response:
        """200 while requests are taken. Not so from the moment on at which the server is told to
        end, though it is healthy until its last answer is out."""
        if self._ending:
            raise busy("The server is shutting down and takes no new requests.", "ending")
        try:
            self.service.llm.check_ready()
        except (EngineDeadError, EngineUnavailableError):
            raise busy("No engine takes requests at the moment.", "no_engine") from None
        in_full = self.is_insider(request)
        health = health_of(self.service.llm, in_full=in_full)
        if not health.ready:
            raise busy("No engine gives a sign of life at the moment.", "no_engine")
        return json_response(health)

    def version(self) -> Response:
        return json_response(Version(version=minivllm.__version__))

    def load(self) -> Response:
        return json_response(load_of(self.service.llm, ending=self._ending))

    @property
    def _ending(self) -> bool:
        return self.service.limits.open_requests.ending

    def openapi(self) -> Response:
        return Response(openapi.encoded(), mimetype="application/json")
