"""LateEndpoint: OpenAI's routes beside a page that is served before there is an engine.

``minivllm demo`` opens its page at once and loads the engine behind it. From the moment the engine
is there, ``/v1/…`` is what it is with ``minivllm serve`` (the same blueprint, the same door), so
that the page can chat with the model as any client would. Until then it answers 503.
No counterpart in vLLM, which binds its port when the engine is up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Request

from minivllm.api.errors import ApiError, busy
from minivllm.api.open_responses import WSGIApp
from minivllm.serving.door import Door
from minivllm.serving.settings import ServeSettings
from viz.access import Access

if TYPE_CHECKING:
    from minivllm.engine.async_llm import AsyncLLM

LIFE_PAGE = "/#/run/live?view=life&request="


class LateEndpoint:
    """WSGI: what begins with ``/v1/`` goes to the endpoint, the rest to the page.

    A demo has no API keys, and asking the model is the driver's, as it is in the page: who sits at
    this machine, or came with the driver's link.
    """

    def __init__(self, page: WSGIApp, access: Access, host: str = "127.0.0.1") -> None:
        """``host``: where the page is served."""
        self._page, self._access, self._host = page, access, host
        self._endpoint: WSGIApp | None = None

    def attach(self, llm: AsyncLLM, model: str) -> None:
        from minivllm.api.server import create_app  # /metrics needs what comes with the engine

        app = create_app(llm, served_model_name=model, life_page=LIFE_PAGE)
        self._endpoint = Door(app, ServeSettings(host=self._host), lambda status: None)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not str(environ.get("PATH_INFO", "")).startswith("/v1/"):
            return self._page(environ, start_response)
        if not self._access.may_steer(Request(environ)):
            words = "Only the driver may ask the model here: at the machine itself, or by /?driver="
            return ApiError(403, words, code="not_the_driver").response()(environ, start_response)
        if self._endpoint is not None:
            return self._endpoint(environ, start_response)
        refusal = busy("The engine is not ready yet.", "no_engine").response()
        return refusal(environ, start_response)
