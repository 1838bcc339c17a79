"""``minivllm view``: recorded runs on the dashboard. No torch, no model, no engine."""

from __future__ import annotations

from typing import Annotated

import typer

from minivllm.cli.serving import (
    ClassFlag,
    HostFlag,
    Room,
    check_port,
    open_browser,
    until_interrupted,
    wait,
)


def view(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Traces: .jsonl, or packed as .jsonl.gz, or gallery names. None: the gallery.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any free one.")] = 8000,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    host: HostFlag = None,
    leads: ClassFlag = False,
) -> None:
    """Show recorded runs on the dashboard; the first one opens, a list at the top has the others.

    Whatever writes a trace will do: --trace of generate, chat and serve, or `minivllm trace
    record`. The page can also open files itself: the key O, or drop one on it. Compare (C) lays two
    side by side, and forks the one that is open: with another knob, from a step on.

    \b
    Example: minivllm trace record tiny-pressure --num-kv-blocks 24 -o roomy.jsonl
             minivllm view roomy.jsonl tiny-pressure
             minivllm view tiny-pressure --class
    """
    from minivllm.cli.workbench import ScenarioBench
    from minivllm.learn.lessons import find_lessons
    from minivllm.trace.gallery import find_recording, gallery
    from viz.server import Server, create_app

    room = Room.of(host, leads)
    check_port(room.host, port)
    traces = [find_recording(file) for file in files or gallery()]
    lessons = find_lessons()
    bench = ScenarioBench(lessons)
    app = create_app(traces, access=room.access, workbench=bench, lessons=lessons)
    for run in app.catalogue.all():
        run.header()  # a file that is no trace is told here, not in the page
    with until_interrupted() as stop:
        server = Server(app, room.host, port).start()
        try:
            url, words = room.links(server.port)
            typer.echo(f"minivllm view: {words}   (Ctrl-C ends)", err=True)
            if browser:
                open_browser(url)
            wait(stop)
        finally:
            server.stop()
