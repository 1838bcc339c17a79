"""The page that asks for the join code: one field, no script.

GET /?code=CODE      what the form sends, and a link that was handed out: the browser keeps a
                     ticket, and the code goes out of the address bar
GET /?driver=CODE    the teacher's link; with &lead the page takes the lead
"""

from __future__ import annotations

from flask import Response, make_response, redirect, request

from viz.access import COOKIE, DRIVER_COOKIE, Access

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Join · minivllm</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/style/paper.css">
</head>
<body class="join">
<main>
<h1>mini<b>vllm</b></h1>
<form action="/" method="get">
<label for="code">The join code, from the wall</label>
<input id="code" name="code" required autofocus autocomplete="off" autocapitalize="characters"
 spellcheck="false" maxlength="64">
<p role="alert">{words}</p>
<button>Join</button>
</form>
</main>
</body>
</html>
"""

WRONG = "That is not the code. It has six letters and digits, and neither a 0 nor a 1."
TOO_MANY = "Too many wrong codes came from here. Wait a minute, then try again."


def join_page(words: str = "", status: int = 200) -> Response:
    """``words``: ours, never the visitor's."""
    page = Response(PAGE.format(words=words), status, mimetype="text/html")
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-store"
    return page


def join_by_link(access: Access) -> Response:
    response = make_response(redirect("/?lead" if "lead" in request.args else "/"))
    if "driver" in request.args:
        _keep(response, DRIVER_COOKIE, request.args["driver"])
    if "code" not in request.args or access.may_look(request):
        return response
    if access.joins(request, request.args["code"]):
        _keep(response, COOKIE, access.ticket)
        return response
    if access.guesses.is_barred(request.remote_addr):
        barred = join_page(TOO_MANY, 429)
        barred.headers["Retry-After"] = "60"
        return barred
    return join_page(WRONG, 403)


def _keep(response: Response, cookie: str, code: str) -> None:
    response.set_cookie(cookie, code, httponly=True, samesite="Strict")
