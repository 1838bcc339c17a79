"""Who may look and who may steer.

Bound to the loopback address, as it is by default, the dashboard is open to whoever sits at this
machine. On another address a viewer needs the join code, and on a server that has API keys
(``code_for_all``) everybody does; steering the engine (pause, step, send a prompt) stays with the
local driver: a direct connection from this machine, not through a proxy.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Request

COOKIE = "minivllm_join"


def is_loopback(address: str | None) -> bool:
    """Is this the loopback address, or the name ``localhost``?"""
    if not address:
        return False
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local(request: Request) -> bool:
    """A browser on this machine that asked for this machine by its loopback name.

    The Host header is checked because a foreign page can point a name of its own at 127.0.0.1
    (DNS rebinding); forwarding headers, because behind a proxy everybody comes from loopback.
    """
    host = urlsplit(f"//{request.host}").hostname
    forwarded = any(h in request.headers for h in ("Forwarded", "X-Forwarded-For", "X-Real-Ip"))
    return is_loopback(request.remote_addr) and is_loopback(host) and not forwarded


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server."""

    join_code: str | None = None
    """What a viewer must know; None: only who sits at this machine may look."""
    code_for_all: bool = False
    """Is the code asked of those at this machine, too?"""

    def may_look(self, request: Request) -> bool:
        if is_local(request) and not self.code_for_all:
            return True
        given = request.cookies.get(COOKIE, "").encode()
        return self.join_code is not None and hmac.compare_digest(given, self.join_code.encode())

    def may_steer(self, request: Request) -> bool:
        return is_local(request) and self.may_look(request)
