"""The routes that take an engine out and put it back: ``/admin/engines`` and below it.

    GET  /admin/engines               how each of them does
    POST /admin/engines/0/drain       no new requests; ``drained`` once those it has are finished
    POST /admin/engines/0/resume      takes requests again
    POST /admin/engines/0/restart     drain, a clean end, the next life

No POST waits: the answer (202) says how the engine stands now, and whoever wants to know the end
asks again. So no thread of the server is held, and ``minivllm admin`` works through any proxy.
Counterpart in vLLM: none in its server; its ``/scale_elastic_ep`` changes the number of engines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flask import Blueprint, Request, Response, request

from minivllm.api.answers import EngineList
from minivllm.api.errors import ApiError, json_response
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.dp_client import DPClient
from minivllm.errors import ConfigError


def create_admin_blueprint(llm: AsyncLLM, may_steer: Callable[[Request], bool]) -> Blueprint:
    """``may_steer``: is this request the driver's (``viz/access.py``)? Beside that the keys of
    ``create_blueprint`` guard these routes, as they do every route."""
    bp = Blueprint("admin", __name__, url_prefix="/admin")

    @bp.before_request
    def guard() -> None:
        if not may_steer(request):
            raise ApiError(
                403,
                "Engines are steered from the server's own machine, or with the driver's code.",
                code="not_the_driver",
            )

    @bp.get("/engines", endpoint="engines")
    def list_engines() -> Response:
        return json_response(EngineList(engines=llm.engines()))

    for verb in ("drain", "resume", "restart"):
        bp.post(f"/engines/<int:engine>/{verb}", endpoint=verb)(partial(_steer, llm, verb))
    return bp


def _steer(llm: AsyncLLM, verb: str, engine: int) -> Response:
    client = llm.client
    if not isinstance(client, DPClient):
        raise ApiError(400, "The engine of this server runs on a thread: it cannot be replaced.")
    try:
        if verb == "restart":
            status = client.restart(engine, timeout=0)
        else:
            status = client.drain(engine) if verb == "drain" else client.resume(engine)
    except ConfigError as error:
        raise ApiError(404, str(error), param="engine", code="no_such_engine") from error
    return json_response(status, 202)
