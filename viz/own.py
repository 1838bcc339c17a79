"""Scenarios of one's own: a form comes in, a run goes into the catalogue.

    GET  /api/own            the presets, and the bounds of the fields
    POST /api/own            a form as JSON → {"id", "form", "gone"}; 400 {"error", "fields"}
    POST /api/own/file       a .toml scenario as text → its form

Whoever may look may run one: no engine is touched. A run is named after its form, so the same form
is the same run, and nobody's list shows those of others; who has the address sees it. Of all of
them the newest are kept, and a page whose run was let go is told so and runs its form again. Few
run at a time: thirty students who press the button together wait for one another, briefly.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from minivllm.errors import ScenarioError
from minivllm.own_scenario import BOUNDS, MOST_REQUESTS, OwnScenarioError
from viz.access import Access
from viz.commands import Workbench
from viz.problem import problem
from viz.runs import Catalogue, LiveRun

OWN_KEPT = 64
"""Runs of forms that stay in memory: two for each of a class of thirty."""
AT_ONCE = 2
WAIT_S = 20.0
MOST_BYTES = 200_000
LABEL = "own scenario"


class OwnRuns:
    """The runs of forms, in the order in which they were last asked for."""

    def __init__(self, catalogue: Catalogue, workbench: Workbench) -> None:
        self._catalogue, self._workbench = catalogue, workbench
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._turn = threading.BoundedSemaphore(AT_ONCE)

    def run(self, given: Any) -> dict[str, Any]:
        """Raises OwnScenarioError; TimeoutError where too many wait."""
        if not self._turn.acquire(timeout=WAIT_S):
            raise TimeoutError
        try:
            log, form = self._workbench.own(given)
        finally:
            self._turn.release()
        run_id = form.pop("id")
        with self._lock:
            gone = []
            if self._catalogue.get(run_id) is None:
                self._catalogue.put_own(
                    LiveRun(run_id, log, "recorded", f"{LABEL} {run_id.removeprefix('own-')}")
                )
            self._kept[run_id] = None
            self._kept.move_to_end(run_id)
            while len(self._kept) > OWN_KEPT:
                gone.append(self._kept.popitem(last=False)[0])
                self._catalogue.drop_own(gone[-1])
        return {"id": run_id, "form": form, "gone": gone}


def add_own_pages(
    app: Flask, catalogue: Catalogue, access: Access, workbench: Workbench | None
) -> None:
    own = None if workbench is None else OwnRuns(catalogue, workbench)

    def bench() -> tuple[OwnRuns, Workbench]:
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))
        if own is None or workbench is None:
            abort(problem(404, "this dashboard only shows runs; minivllm view runs scenarios, too"))
        return own, workbench

    def body() -> bytes:
        if (request.content_length or 0) > MOST_BYTES:
            abort(problem(413, f"a form has up to {MOST_BYTES} bytes"))
        return request.get_data()[:MOST_BYTES]

    @app.get("/api/own")
    def own_offers() -> Response:
        _, workbench = bench()
        return jsonify(
            {
                "presets": workbench.presets(),
                "bounds": BOUNDS,
                "most": MOST_REQUESTS,
                "kept": OWN_KEPT,
            }
        )

    @app.post("/api/own")
    def run_own() -> Response:
        runs, _ = bench()
        # No form of a foreign page can send this type, and none is let through by CORS.
        if request.mimetype != "application/json":
            abort(problem(415, "send the form as application/json"))
        body()
        try:
            return jsonify(runs.run(request.get_json(silent=True)))
        except OwnScenarioError as error:
            return _refused(error)
        except TimeoutError:
            abort(problem(503, "many scenarios are being run; try again in a moment"))

    @app.post("/api/own/file")
    def own_file() -> Response:
        _, workbench = bench()
        if request.mimetype != "application/toml":
            abort(problem(415, "send the file as application/toml"))
        try:
            return jsonify(workbench.own_from(body().decode("utf-8-sig", "replace")))
        except OwnScenarioError as error:
            return _refused(error)
        except ScenarioError as error:
            abort(problem(400, str(error)))


def _refused(error: OwnScenarioError) -> Response:
    response = jsonify({"error": str(error), "fields": error.fields})
    response.status_code = 400
    return response
