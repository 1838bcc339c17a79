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
TOO_MANY = "That is not the code, and many wrong ones came from here. Look at the wall once more."
DEAF = "Far too many wrong codes came from here. Wait a minute, then try again."
NO_DRIVER = (
    "That is not the driver's link of this server: each start makes a new one. Take it from the "
    "terminal, or join with the code from the wall."
)


def join_page(words: str = "", status: int = 200) -> Response:
    """``words``: ours, never the visitor's."""
    page = Response(PAGE.format(words=words), status, mimetype="text/html")
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-store"
    return page


def join_by_link(access: Access) -> Response:
    response = make_response(redirect("/?lead" if "lead" in request.args else "/"))
    if "driver" in request.args:
        if access.is_driver_code(request.args["driver"]):
            keep_cookie(response, DRIVER_COOKIE, request.args["driver"])
        elif not access.may_steer(request):  # a good one that is kept here stays
            return join_page(NO_DRIVER, 403)
    if "code" not in request.args or access.may_look(request):
        return response
    if access.joins(request, request.args["code"]):
        keep_cookie(response, COOKIE, access.ticket)
        return response
    if access.guesses.is_barred(request.remote_addr):
        deaf = access.guesses.is_deaf(request.remote_addr)
        barred = join_page(DEAF if deaf else TOO_MANY, 429)
        barred.headers["Retry-After"] = "60"
        return barred
    return join_page(WRONG, 403)


def keep_cookie(response: Response, cookie: str, code: str) -> None:
    response.set_cookie(cookie, code, httponly=True, samesite="Strict")
