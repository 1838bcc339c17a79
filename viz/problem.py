"""How a page's request is refused: the status, and one sentence as JSON."""

from __future__ import annotations

from flask import Response, jsonify


def problem(status: int, message: str) -> Response:
    response = jsonify({"error": message})
    response.status_code = status
    return response
