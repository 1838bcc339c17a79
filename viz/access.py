"""Who may look and who may steer: two roles, the viewer and the driver.

Bound to the loopback address, as it is by default, the dashboard is open to whoever sits at this
machine, who is its driver, too. On another address a viewer needs the join code, and on a server
that has API keys (``code_for_all``) everybody does. Steering the engine (pause, step, send a
prompt, set a knob), and leading a class, never come with the join code: they take a direct
connection from this machine (where there are no keys), the driver's code, or an API key.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Request

from viz.join import Guesses, as_typed, reachable

COOKIE = "minivllm_join"
DRIVER_COOKIE = "minivllm_driver"
VOTER_COOKIE = "minivllm_voter"


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


_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]{1,5})?", re.ASCII)


def name_in(host: str) -> str | None:
    """The name or address in a Host header, in small letters; None where that is no such header.

    Strict, for a lax reading finds ``localhost`` in ``localhost/evil`` and ``evil@localhost``.
    """
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else None


def is_local(request: Request) -> bool:
    """A browser on this machine that asked for this machine by its loopback name.

    The Host header is checked because a foreign page can point a name of its own at 127.0.0.1
    (DNS rebinding); forwarding headers, because behind a proxy everybody comes from loopback.
    """
    host = name_in(request.host)
    forwarded = any(h in request.headers for h in ("Forwarded", "X-Forwarded-For", "X-Real-Ip"))
    return is_loopback(request.remote_addr) and is_loopback(host) and not forwarded


def no_key(authorization: str | None) -> bool:
    """A server without API keys has none that would open anything."""
    return False


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server."""

    join_code: str | None = None
    """What a viewer must tell once; None: only who sits at this machine may look."""
    code_for_all: bool = False
    """Is a code asked of those at this machine, too?"""
    driver_code: str | None = None
    """What makes a driver of somebody who is not at this machine; None: nothing does."""
    has_key: Callable[[str | None], bool] = no_key
    """Does this ``Authorization`` header hold an API key?"""
    guesses: Guesses = field(default_factory=Guesses, compare=False)
    _secret: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @property
    def ticket(self) -> str:
        """What a browser keeps once it has told the join code: too long to be guessed, so that no
        request but the one that joins has to be counted. Good for as long as the codes are."""
        return self._signed(self.join_code or "")

    def _signed(self, text: str) -> str:
        key = (self.driver_code or self._secret).encode()
        return hmac.digest(key, text.encode(), "sha256").hex()

    def voter(self, request: Request) -> str | None:
        """Whose browser this is, without a name: what ``new_voter`` gave it; None: nobody's."""
        name, _, seal = request.cookies.get(VOTER_COOKIE, "").partition(".")
        return name if name and _same(seal, self._signed(f"voter {name}")) else None

    def new_voter(self) -> str:
        """For a cookie. Signed, so that no page can make itself as many as it likes."""
        name = secrets.token_urlsafe(9)
        return f"{name}.{self._signed(f'voter {name}')}"

    def is_driver_code(self, given: str) -> bool:
        return bool(self.driver_code) and _same(given, self.driver_code or "")

    def may_look(self, request: Request) -> bool:
        has_joined = _knows(request, COOKIE, self.ticket if self.join_code else None)
        return has_joined or self.may_steer(request)

    def joins(self, request: Request, given: str) -> bool:
        """Is this the join code? An address from which far too many came is not told."""
        if not self.join_code or self.guesses.is_deaf(request.remote_addr):
            return False
        if _same(as_typed(given), as_typed(self.join_code)):
            return True
        self.guesses.note(request.remote_addr, given)
        return False

    def may_steer(self, request: Request) -> bool:
        return (
            (is_local(request) and not self.code_for_all)
            or _knows(request, DRIVER_COOKIE, self.driver_code)
            or self.has_key(request.headers.get("Authorization"))
        )


def join_link(access: Access, listens_on: str, host: str) -> dict[str, str] | None:
    """What the driver's page shows the class: ``{"url", "code"}``; None where nobody can join.

    ``host``: by which name the driver's own page came, and so may others. Where that is
    ``localhost``, which is every machine itself, this machine's address in its network.
    """
    if not access.join_code:
        return None
    if is_loopback(name_in(host)):
        port = host.rpartition(":")[2] if re.search(r":[0-9]+$", host) else "80"
        host = f"{reachable(listens_on)}:{port}"
    return {"url": f"http://{host}/", "code": access.join_code}


def _knows(request: Request, cookie: str, code: str | None) -> bool:
    """A code that is not set is known to nobody."""
    return bool(code) and _same(request.cookies.get(cookie, ""), code or "")


def _same(given: str, code: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), code.encode())
