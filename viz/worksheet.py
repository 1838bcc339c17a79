"""A run's worksheet, to be printed from the browser.

    GET /api/runs/ID/worksheet?stream=&life=   an HTML page: blank, then filled
        &sheets=blank | filled | both          &ask=waits,free   &from=1   &to=17

The page has one ``<style>`` and nothing else that could be loaded or run: its policy names that by
its hash. What cannot be a worksheet is refused in one sentence, as JSON.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from flask import Flask, Response, abort, request

from minivllm.errors import ConfigError
from minivllm.trace.file import Trace
from minivllm.trace.log import Life
from minivllm.trace.worksheet import asked_columns, make_sheet
from minivllm.trace.worksheet_page import sheet_page, style_of
from viz.forks import trace_of
from viz.problem import problem
from viz.runs import Run

SHEETS = {"both": [True, False], "blank": [True], "filled": [False]}


def add_worksheet_page(
    app: Flask, find_run: Callable[[str], Run], asked_life: Callable[[Run], Life]
) -> None:
    """``find_run`` and ``asked_life`` refuse what is not there, or not for this viewer."""

    @app.get("/api/runs/<run_id>/worksheet")
    def worksheet(run_id: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        sheets = request.args.get("sheets", "both")
        if sheets not in SHEETS:
            abort(problem(400, f"sheets: got {sheets!r}; allowed: {', '.join(SHEETS)}"))
        first, last = (_step(name) for name in ("from", "to"))
        try:
            asked = asked_columns(request.args.get("ask", ""), "ask")
            trace = _whole_steps(trace_of(run, life.stream, life.epoch))
            page = sheet_page(make_sheet(trace, first, last), SHEETS[sheets], asked)
        except ConfigError as error:
            abort(problem(400, str(error)))
        response = Response(page, mimetype="text/html")
        digest = base64.b64encode(hashlib.sha256(style_of(page).encode()).digest()).decode()
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        return response


def _step(name: str) -> int | None:
    text = request.args.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9:
        abort(problem(400, f"{name}: got {text!r}; allowed: the number of a step"))
    return int(text)


def _whole_steps(trace: Trace) -> Trace:
    """A live engine may stand in the midst of a step."""
    events = list(trace.events)
    while events and events[-1].kind != "step.end":
        events.pop()
    return Trace(trace.header, events, trace.name)
