"""API keys: who may use the endpoint. Without a key set, everybody may.

With one set, every route of the application is closed unless it stands on a list of open ones
(by route, not by a prefix of the path: a prefix check can be led astray, as CVE-2026-48746 was).
Counterpart in vLLM: ``AuthenticationMiddleware`` in ``vllm/entrypoints/openai/``, which guards the
paths below ``/v1``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


class KeyRing:
    """The keys that open the endpoint, kept as digests."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys if key]

    @property
    def required(self) -> bool:
        return bool(self._digests)

    def allows(self, authorization: str | None) -> bool:
        """Is this the value of an ``Authorization: Bearer KEY`` header with one of the keys?

        Digests are compared, in constant time and with all keys, so the time taken tells neither
        a key's length nor which one was nearly right.
        """
        if not self.required:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        # WSGI hands out headers as latin-1, whatever bytes the client sent.
        given = _digest(key.strip().encode("latin-1", errors="replace"))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
