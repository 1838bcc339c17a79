"""Where the server listens: bound first of all, with a remedy where that does not work."""

from __future__ import annotations

import errno
import socket
import sys

from minivllm.errors import ConfigError

BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any free one. Raises ConfigError with a remedy."""
    if not 0 <= port <= 65535:
        raise ConfigError("--port", port, "0 (any free one) to 65535")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        allowed = f"a name or an address of this machine, such as 0.0.0.0 ({error})"
        return ConfigError("--host", host, allowed)
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        allowed = "an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
        return ConfigError("--host", host, allowed)
    reason = getattr(error, "strerror", None) or str(error)
    remedy = f"a free one: try --port {port + 1 if port < 65535 else 8000}"
    return ConfigError("--port", port, f"{remedy} ({host}: {reason})")
