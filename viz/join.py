"""Joining a class: a code that can be read off a wall and typed, guesses counted, and the address.

The code keeps out who was not in the room, no more: six letters and digits, none of which can be
taken for another, are nearly a billion codes, and an address has two hundred wrong ones a minute:
to try them all would take eight years. A whole class may come from one address (one router), so the
right code is heard there long after somebody's wrong ones are answered with 429.
No counterpart in vLLM.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
"""No 0 or O, no 1, I or L."""
LENGTH = 6

GUESSES = 20
"""Different wrong codes from one address in a window. (The same one again, as from a page that was
open before the server was started anew, is one guess.) More are told to wait."""
DEAF_FROM = 200
"""Wrong codes after which even the right one is not heard."""
WINDOW_S = 60.0
ADDRESSES_KEPT = 4096


def new_join_code() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def as_typed(code: str) -> str:
    """``kq7-3xa`` and `` KQ7 3XA`` are ``KQ73XA``. A code of another kind stays as it is."""
    bare = code.upper().replace("-", "").replace(" ", "").strip()
    is_join_code = len(bare) == LENGTH and all(letter in ALPHABET for letter in bare)
    return bare if is_join_code else code


@dataclass(slots=True)
class _Tried:
    since: float
    codes: set[str] = field(default_factory=set)


class Guesses:
    """Wrong codes of each address, in the minute since the first of them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._tried: dict[str, _Tried] = {}

    def is_barred(self, address: str | None) -> bool:
        """Were there so many that a wrong one is asked to wait?"""
        return self._count(address) >= GUESSES

    def is_deaf(self, address: str | None) -> bool:
        """Were there so many that not even the right one is heard?"""
        return self._count(address) >= DEAF_FROM

    def _count(self, address: str | None) -> int:
        with self._lock:
            tried = self._tried.get(_network(address))
            if tried is None:
                return 0
            if self._now() - tried.since > WINDOW_S:
                del self._tried[_network(address)]
                return 0
            return len(tried.codes)

    def note(self, address: str | None, wrong: str) -> None:
        with self._lock:
            tried = self._tried.setdefault(_network(address), _Tried(self._now()))
            tried.codes.add(wrong[:64])
            while len(self._tried) > ADDRESSES_KEPT:
                del self._tried[next(iter(self._tried))]  # the oldest


def _network(address: str | None) -> str:
    """Whoever has an IPv6 address has 2⁶⁴ of them."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return str(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def is_any(host: str) -> bool:
    """``0.0.0.0`` and ``::``: every network of this machine, and an address of none."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def reachable(host: str) -> str:
    """What to write in a link to a server that listens on ``host``: on every network, this
    machine's address in the one that leads out. Nothing is sent."""
    if not is_any(host):
        return f"[{host}]" if ":" in host and not host.startswith("[") else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # kept for documentation (RFC 5737): only a route
            return str(probe.getsockname()[0])
        except OSError:  # in no network
            return "127.0.0.1"
