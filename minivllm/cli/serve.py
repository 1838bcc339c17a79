"""``minivllm serve``: the OpenAI-compatible endpoint and the dashboard, on one port."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from minivllm.cli.flags import parse_size
from minivllm.cli.options import engine_flags
from minivllm.cli.serving import EVERY_NETWORK, ClassFlag
from minivllm.logs import FORMATS, LEVELS
from minivllm.serving.settings import (
    HTTP_SERVERS,
    KEY_VARIABLE,
    ServeSettings,
    given_keys,
    split_list,
)

DEFAULTS = ServeSettings()
SERVER, LIMITS, LOG = "The server", "Limits", "The log"


@engine_flags
def serve(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0: every network of this machine.",
            rich_help_panel=SERVER,
        ),
    ] = DEFAULTS.host,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any free one.", rich_help_panel=SERVER)
    ] = DEFAULTS.port,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar=KEY_VARIABLE,
            help="Clients must send this as a bearer token; several: again, or with commas. "
            "Default: none needed.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="A name in the Host header that is this server's, besides localhost; several: "
            "again, or with commas. Default: on a loopback address none, else any.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            help="The name clients ask for. Default: what --model says.", rich_help_panel=SERVER
        ),
    ] = None,
    http_server: Annotated[
        str,
        typer.Option(
            metavar="|".join(HTTP_SERVERS),
            help="What carries HTTP: gunicorn's threads in a process that is watched, or "
            "werkzeug's in this one (the only one on Windows).",
            rich_help_panel=SERVER,
        ),
    ] = DEFAULTS.http_server,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of gunicorn's worker. Default: what --max-streams and --max-viewers "
            "can take, and some to spare.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="After SIGTERM or Ctrl-C: how long requests under way may go on; 0: they are "
            "cancelled at once.",
            rich_help_panel=SERVER,
        ),
    ] = DEFAULTS.shutdown_timeout_s,
    max_streams: Annotated[
        int,
        typer.Option(
            help="Requests that are answered at once, streamed or not; more get 503.",
            rich_help_panel=LIMITS,
        ),
    ] = DEFAULTS.max_streams,
    max_viewers: Annotated[
        int,
        typer.Option(
            help="Dashboard pages that are open at once; more get 503.", rich_help_panel=LIMITS
        ),
    ] = DEFAULTS.max_viewers,
    max_queue_size: Annotated[
        int | None,
        typer.Option(
            help="Requests that wait and that no engine has begun; while so many do, more get "
            "503. Default: no limit but --max-streams.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    request_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time for one request, waiting included; then it is ended: 504, or an error at "
            "the stream's end. Time in which the engine is paused does not count. Default: none.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_body_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Of one request; larger ones get 413.",
            rich_help_panel=LIMITS,
        ),
    ] = f"{DEFAULTS.max_body_bytes // 2**20}MiB",
    log_format: Annotated[
        str,
        typer.Option(metavar="|".join(FORMATS), help="Lines on stderr.", rich_help_panel=LOG),
    ] = DEFAULTS.log_format,
    log_level: Annotated[
        str,
        typer.Option(
            metavar="|".join(LEVELS),
            help="info: a line for each request; debug: probes and the page's, too. Prompts and "
            "answers are in none of them.",
            rich_help_panel=LOG,
        ),
    ] = DEFAULTS.log_level,
    rate: Annotated[
        float,
        typer.Option(help="Steps per second at most, to watch the engine at work; 0: full speed."),
    ] = 0.0,
    leads: ClassFlag = False,
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
    from minivllm.cli.workbench import ScenarioBench
    from minivllm.config import ModelConfig, make_config
    from minivllm.learn.lessons import find_lessons
    from minivllm.serving.serve import serve_forever

    settings = ServeSettings(
        host=EVERY_NETWORK if leads and host == DEFAULTS.host else host,
        port=port,
        served_model_name=served_model_name or engine.get("model") or ModelConfig().model,
        api_keys=given_keys(api_key, os.environ),
        allowed_hosts=split_list(allowed_host or ()),
        http_server=http_server,
        threads=threads,
        max_streams=max_streams,
        max_viewers=max_viewers,
        max_queue_size=max_queue_size,
        request_timeout_s=request_timeout,
        shutdown_timeout_s=shutdown_timeout,
        max_body_bytes=parse_size(max_body_size, "--max-body-size"),
        rate=rate,
        leads=leads,
        open_traces=tuple(open_trace or ()),
        log_format=log_format,
        log_level=log_level,
    )
    engine.setdefault("engine_processes", True)
    engine.setdefault("dtype", "fast")
    config = make_config(**engine, live=True, served_model_name=served_model_name)
    serve_forever(config, settings, workbench=ScenarioBench(find_lessons()))
