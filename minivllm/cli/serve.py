"""``minivllm serve``: the OpenAI-compatible endpoint and the dashboard, on one port."""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from minivllm.cli.options import engine_flags
from minivllm.cli.serving import check_port, until_interrupted, wait

LAST_WORDS_S = 5.0
"""How long the end waits for streams to be written out: a reader that is stuck is left behind."""

# Endpoints of the dashboard that need no API key: the page itself, and its data and socket, which
# have an access rule of their own (this machine, or the join code).
PAGE_ENDPOINTS = (
    "index",
    "icon",
    "static",
    "list_runs",
    "events",
    "snapshot",
    "tour",
    "workbench_offers",
)


@engine_flags
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar="MINIVLLM_API_KEY",
            help="Clients must send this as a bearer token; may be repeated. Default: none needed.",
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(help="The name clients ask for. Default: what --model says."),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(help="Steps per second at most, to watch the engine at work; 0: full speed."),
    ] = 0.0,
    open_trace: Annotated[
        list[Path] | None,
        typer.Option(
            "--open", metavar="TRACE", help="Also show this recorded run (no engine: see `view`)."
        ),
    ] = None,
    *,
    engine: dict[str, Any],
) -> None:
    """Serve the model: OpenAI's API under /v1, the dashboard at /.

    \b
    Example: minivllm serve --port 8000, then
    curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "Once upon a time"}'
    """
    from minivllm.api.open_responses import OpenResponses
    from minivllm.api.server import create_blueprint, make_http_server
    from minivllm.cli.live import DashboardEngine
    from minivllm.cli.workbench import ScenarioBench
    from minivllm.config import ModelConfig, make_config
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.setup.progress import EngineStatus, StatusBoard
    from minivllm.trace.gate import Gate
    from viz.access import is_loopback
    from viz.server import create_app

    check_port(host, port)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each HTTP request
    gate = Gate(rate=rate)
    config = make_config(**engine, live=True, served_model_name=served_model_name)
    name = served_model_name or engine.get("model") or ModelConfig().model
    open_to_this_machine = is_loopback(host) and not api_key
    join_code = None if open_to_this_machine else secrets.token_urlsafe(8)

    typer.echo(f"loading {config.model.model}", err=True)
    llm = AsyncLLM(config, gate=gate)
    with until_interrupted() as stop:
        try:
            endpoint = create_blueprint(
                llm,
                served_model_name=name,
                api_keys=api_key or (),
                open_endpoints=PAGE_ENDPOINTS,
                life_page="/#/run/live?request=",
            )
            app = create_app(
                open_trace or (),
                blueprints=[endpoint],
                status=StatusBoard(EngineStatus.ready()),
                join_code=join_code,
                code_for_all=bool(api_key),
                workbench=ScenarioBench(),
            )
            responses = OpenResponses(app)
            server = make_http_server(responses, host, port)
            app.attach_engine(DashboardEngine(llm))
            app.start()
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
            base = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
            code = f"?code={join_code}" if join_code else ""
            typer.echo(f"API {base}/v1   dashboard {base}/{code}   Ctrl-C ends", err=True)
            wait(stop)
            typer.echo("ending", err=True)
            server.shutdown()  # nobody new
            llm.close()  # streams end, each with its last frame
            app.stop()  # pages, too
            responses.wait(LAST_WORDS_S)
            server.server_close()
        finally:
            llm.close()
