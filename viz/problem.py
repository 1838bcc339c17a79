"""How a page's request is refused: the status, and one sentence as JSON."""

from __future__ import annotations

import json

from flask import Response


def problem(status: int, message: str) -> Response:
    """Needs no application at hand: the channel is refused before there is one."""
    return Response(json.dumps({"error": message}), status, mimetype="application/json")
