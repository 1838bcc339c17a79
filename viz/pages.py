"""The dashboard's pages: the page itself, and the runs by HTTP.

    GET /                              the page (static/index.html); who has not joined is asked
                                       for the code (join_page.py)
    GET /class                         ten minutes at the projector: eight links (projector.py)
    GET /api/runs                      what can be opened
    GET /api/runs/ID                   its streams, their lives, and how many events each has
    GET /api/runs/ID/events?stream=&life=&from=&to=
    GET /api/runs/ID/snapshot?stream=&life=  state at the latest whole step, for a page that came
                                       late; without a life, here and elsewhere, the newest
    GET /api/runs/ID/find?request=     the engine, life and step at which a request came; null: none
    GET /api/runs/ID/tour              the guided stops of a recording
    GET /api/runs/ID/export?with=&from=&to=   the run, and those it is to be compared with, as one
                                       file that opens from disk (export.py)
    GET /api/runs/ID/artifacts…        the arrays of captured steps (artifacts.py)
    GET /api/runs/ID/worksheet         a table of its steps to be printed (worksheet.py)
    /api/own…                          scenarios of one's own, from a form (own.py)
    GET /api/workbench                 scenarios and knobs to run them with

Everything is served from this origin, and the page may load nothing else: see
:func:`content_security_policy`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from minivllm.errors import MissingArtifactError, TraceError
from minivllm.trace.log import Life
from viz import projector as projector_page
from viz.access import VOTER_COOKIE, Access
from viz.artifacts import add_artifact_pages
from viz.commands import Workbench
from viz.export import NO_END, Export
from viz.join_page import join_by_link, join_page, keep_cookie
from viz.own import add_own_pages
from viz.problem import problem
from viz.protocol import lives_json
from viz.runs import MAX_EVENTS_PER_ANSWER, Catalogue, Run, find_request
from viz.worksheet import add_worksheet_page

MAX_REQUEST_ID = 512
MAX_EXPORTED = 4
"""Runs in one exported file."""
MOST_EXPORTS = 2
"""Files that are made at once: a large one takes a core for some seconds."""

STATIC = Path(__file__).parent / "static"


def content_security_policy(html: str) -> str:
    """Only files of this origin. The import map must stand in the page, so it goes by its hash."""
    found = re.search(r'<script type="importmap">(.*?)</script>', html, re.DOTALL)
    digest = hashlib.sha256((found.group(1) if found else "").encode()).digest()
    import_map = f"'sha256-{base64.b64encode(digest).decode()}'"
    return (
        f"default-src 'none'; script-src 'self' {import_map}; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def add_pages(
    app: Flask, catalogue: Catalogue, access: Access, workbench: Workbench | None = None
) -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    policy = content_security_policy(html)

    @app.get("/")
    def index() -> Response:
        if "code" in request.args or "driver" in request.args:
            return join_by_link(access)
        if access.join_code and not access.may_look(request):
            return join_page()
        page = Response(html, mimetype="text/html")
        if access.voter(request) is None:
            keep_cookie(page, VOTER_COOKIE, access.new_voter())
        return page

    @app.get("/class")
    def projector() -> Response:
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))
        if catalogue.get(projector_page.RUN) is None:
            what = f"the links lead into {projector_page.RUN}, which is not open here"
            abort(problem(404, f"{what}: minivllm view {projector_page.RUN}"))
        page = projector_page.as_html(projector_page.ten_minutes())
        response = Response(page, mimetype="text/html")
        response.headers["Content-Security-Policy"] = projector_page.POLICY
        return response

    @app.get("/favicon.ico")
    def icon() -> Response:
        return app.send_static_file("icon.svg")

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    def find_run(run_id: str) -> Run:
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))
        run = catalogue.get(run_id)
        if run is None:
            known = ", ".join(run.id for run in catalogue.all()) or "none"
            abort(problem(404, f"there is no run {run_id!r}; there are: {known}"))
        return run

    def asked_life(run: Run) -> Life:
        """The life of a stream that the query names; without a number, its newest."""
        stream, number = request.args.get("stream", "engine0"), request.args.get("life", "")
        lives = [life for life in run.lives() if life.stream == stream]
        named = [life for life in lives if number in ("", str(life.epoch))]
        if not named:
            what = f"life {number} of " if lives else ""
            abort(problem(404, f"run {run.id} has no {what}stream {stream!r}"))
        return named[-1]

    @app.get("/api/runs")
    @app.get("/api/runs/<run_id>")
    def list_runs(run_id: str | None = None) -> Response:
        if run_id is not None:
            run = find_run(run_id)
            return jsonify({**describe_run(run), "lives": lives_json(run)})
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))
        return jsonify([describe_run(run) for run in catalogue.all()])

    @app.get("/api/runs/<run_id>/events")
    def events(run_id: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        try:
            start, end = int(request.args["from"]), int(request.args["to"])
        except (KeyError, ValueError):
            abort(problem(400, "from and to must be whole numbers: sequence numbers, included"))
        if not 1 <= start <= end + 1 or end - start >= MAX_EVENTS_PER_ANSWER:
            allowed = f"1 <= from <= to, at most {MAX_EVENTS_PER_ANSWER} events"
            abort(problem(400, f"got from={start} to={end}; allowed: {allowed}"))
        if start < life.first:
            gone = f"events before {life.first} are no longer kept; take the snapshot"
            abort(problem(410, gone))
        lines = run.lines(life.stream, start, end, life.epoch)
        return Response(b"[" + b",".join(lines) + b"]", mimetype="application/json")

    @app.get("/api/runs/<run_id>/snapshot")
    def snapshot(run_id: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        return jsonify(catalogue.snapshots(run, life.stream, life.epoch).latest())

    @app.get("/api/runs/<run_id>/find")
    def find(run_id: str) -> Response:
        run, wanted = find_run(run_id), request.args.get("request", "")
        if not 0 < len(wanted) <= MAX_REQUEST_ID:
            abort(problem(400, f"request: an id of 1 to {MAX_REQUEST_ID} characters"))
        return jsonify(find_request(run, wanted))

    @app.get("/api/runs/<run_id>/tour")
    def tour(run_id: str) -> Response:
        return jsonify(find_run(run_id).tour())

    exporting = threading.BoundedSemaphore(MOST_EXPORTS)

    @app.get("/api/runs/<run_id>/export")
    def export(run_id: str) -> Response:
        """Of a live run, what has run so far."""
        if not exporting.acquire(blocking=False):
            busy = problem(503, "others are being exported; try again in a few seconds")
            busy.headers["Retry-After"] = "5"
            return busy
        try:
            response = exported(run_id)
        except BaseException:
            exporting.release()
            raise
        response.call_on_close(exporting.release)
        return response

    def exported(run_id: str) -> Response:
        runs = [find_run(name) for name in dict.fromkeys([run_id, *request.args.getlist("with")])]
        if len(runs) > MAX_EXPORTED:
            abort(problem(400, f"with: at most {MAX_EXPORTED} runs go into one file"))
        try:
            steps = int(request.args.get("from", 1)), int(request.args.get("to", NO_END))
        except ValueError:
            abort(problem(400, "from and to must be whole numbers: steps, included"))
        if not 1 <= steps[0] <= steps[1]:
            abort(problem(400, f"got from={steps[0]} to={steps[1]}; allowed: 1 <= from <= to"))
        whole = not {"from", "to"} & set(request.args)
        made = Export(runs, None if whole else steps)
        response = Response(made.parts(), mimetype="text/html")
        name = "-".join(run.id for run in runs)[:100]  # ids are slugs
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.html"'
        response.headers["Content-Security-Policy"] = "sandbox"  # its own stands in it
        return response

    add_own_pages(app, catalogue, access, workbench)
    add_artifact_pages(app, find_run, asked_life)
    add_worksheet_page(app, find_run, asked_life)

    @app.get("/api/workbench")
    def workbench_offers() -> Response:
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))
        if workbench is None:
            return jsonify({"knobs": [], "scenarios": [], "about": {}})
        return jsonify(
            {
                "knobs": workbench.knobs(),
                "scenarios": workbench.scenarios(),
                "about": workbench.about(),
            }
        )

    @app.errorhandler(MissingArtifactError)
    def missing_artifact(error: MissingArtifactError) -> Response:
        return problem(404, str(error))

    @app.errorhandler(TraceError)
    def broken_trace(error: TraceError) -> Response:
        return problem(422, str(error))


def describe_run(run: Run) -> dict[str, Any]:
    """One row of the list. A broken file is in it, too, with what is wrong with it."""
    about = {"id": run.id, "kind": run.kind, "label": run.label, "lesson": run.lesson}
    try:
        header = run.header()
    except TraceError as error:
        return {**about, "error": str(error)}
    told = {"epoch": header["run_id"], "tour": run.tour() is not None, "header": header}
    return {**about, **told, "gallery": run.gallery}
