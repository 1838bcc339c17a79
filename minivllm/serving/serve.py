"""serve_forever: bind, log, start, and hand over to the HTTP server until the end.

    serve_forever(make_config(model="smollm2-135m", live=True), ServeSettings(port=0))

Counterpart in vLLM: ``run_server`` in ``vllm/entrypoints/openai/api_server.py``.
"""

from __future__ import annotations

import logging
import sys
from functools import partial

from minivllm import logs
from minivllm.api.address import bind
from minivllm.config import EngineConfig
from minivllm.engine.async_llm import AsyncLLM
from minivllm.errors import MissingExtraError
from minivllm.serving import plain_server
from minivllm.serving.front import Codes, FrontEnd, StartEngine, is_open_here
from minivllm.serving.settings import ServeSettings
from minivllm.trace.gate import Gate
from viz.access import is_loopback
from viz.commands import Workbench
from viz.join import reachable

logger = logging.getLogger(__name__)


def start_engine_itself(config: EngineConfig, gate: Gate) -> AsyncLLM:
    return AsyncLLM(config, gate=gate)


def serve_forever(
    config: EngineConfig,
    settings: ServeSettings,
    *,
    start_engine: StartEngine = start_engine_itself,
    workbench: Workbench | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. ``start_engine``: for tests, an engine without a model.

    Raises what the server cannot start by. On gunicorn the process ends here, with 0 after an
    orderly end.
    """
    logs.set_up(settings.log_format, settings.log_level)
    # First of all: who waits for a model to load should not learn afterwards that nobody can
    # listen there. Who connects from now on waits until it is loaded.
    with bind(settings.host, settings.port) as listener:
        if not is_loopback(settings.host) and not settings.api_keys:
            logger.warning("no --api-key is set: whoever reaches %s may use it", settings.host)
        if not is_loopback(settings.host) and not settings.allowed_hosts:
            logger.warning(
                "no --allowed-host is set: any name is answered, so a web page whose name is "
                "pointed at this server (DNS rebinding) may use it from its visitors' browsers"
            )
        codes = Codes.fresh()
        _tell(settings, f"loading {config.model.model}")
        make_front = partial(FrontEnd, config, settings, codes, start_engine, workbench)
        tell_ready = partial(_tell_ready, settings, codes, listener.getsockname()[1])
        if settings.http_server == "werkzeug":
            plain_server.run(listener, settings, make_front, tell_ready)
            return
        try:
            from minivllm.serving import gunicorn_server  # not on Windows
        except ImportError as error:
            raise MissingExtraError(
                f"{error.name} is not installed: pip install 'minivllm[engine]', or use "
                "--http-server werkzeug"
            ) from error
        gunicorn_server.run(listener, settings, make_front, tell_ready)


def _tell_ready(settings: ServeSettings, codes: Codes, port: int) -> None:
    """To whoever started the server: the driver's link is for nobody else."""
    base = f"http://{reachable(settings.host)}:{port}"
    line = f"API {base}/v1   dashboard {base}/"
    lead = "&lead" if settings.leads else ""
    with_codes = f"{line}?driver={codes.driver}{lead}   for viewers {base}/?code={codes.join}"
    has_codes = not is_open_here(settings)
    if settings.log_format == "json":  # logs are kept, and read by many
        _tell(settings, f"{line}   Ctrl-C ends")
        if has_codes and sys.stderr.isatty():
            print(with_codes, file=sys.stderr, flush=True)
    else:
        _tell(settings, f"{with_codes if has_codes else line}   Ctrl-C ends")


def _tell(settings: ServeSettings, line: str) -> None:
    """To the terminal, or as a line of the log where programs read it."""
    if settings.log_format == "json":
        logger.info(line)
    else:
        print(line, file=sys.stderr, flush=True)
