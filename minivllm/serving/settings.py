"""What a server is started with, apart from its engines: address, keys, limits, times, log.

Each number bounds something that strangers could otherwise make grow. Counterpart in vLLM:
``FrontendArgs`` in ``vllm/entrypoints/openai/cli_args.py``. Left out: TLS (a proxy's business) and
CORS: no page of another origin may call this server.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minivllm.errors import ConfigError
from minivllm.logs import FORMATS, LEVELS
from minivllm.trace.gate import MAX_RATE

HTTP_SERVERS = ("gunicorn", "werkzeug")

SPARE_THREADS = 16
"""For what is short: health, metrics, models, the page's files."""
THREADS_PER_VIEWER = 2
"""A websocket takes one; by polling, a page asks and tells at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    served_model_name: str | None = None
    """The name clients ask for. None: what the model was called when the server was started."""
    api_keys: tuple[str, ...] = ()
    """Any of them opens every guarded route. None at all: everybody may."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may address this server, besides its own."""
    http_server: str = HTTP_SERVERS[0] if sys.platform != "win32" else HTTP_SERVERS[1]
    threads: int | None = None
    """Of the server; None: as many as the limits need."""
    max_streams: int = 256
    """Requests that generate, streamed or not, at once."""
    max_viewers: int = 64
    """Dashboard pages that are open at once."""
    max_queue_size: int | None = None
    """Requests that wait and that no engine has begun. None: no limit but ``max_streams``."""
    request_timeout_s: float | None = None
    """Of one request, from its arrival to its last token; not while the gate holds the engine."""
    shutdown_timeout_s: float = 30.0
    """How long the end waits for requests that are under way; 0: they are cancelled at once."""
    send_timeout_s: float = 30.0
    """How long a client may take nothing of what is sent to it."""
    max_body_bytes: int = 16 * 2**20
    rate: float = 0.0
    """Steps per second at most; 0: full speed."""
    leads: bool = False
    """Does the driver's link take the lead of a class?"""
    open_traces: tuple[Path, ...] = ()
    """Recorded runs that the dashboard shows, too."""
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        _check_choice("--http-server", self.http_server, HTTP_SERVERS)
        _check_choice("--log-format", self.log_format, FORMATS)
        _check_choice("--log-level", self.log_level, LEVELS)
        if self.http_server == "gunicorn" and sys.platform == "win32":
            raise ConfigError("--http-server", "gunicorn", "werkzeug on Windows")
        for flag, given in (
            ("--max-streams", self.max_streams),
            ("--max-viewers", self.max_viewers),
            ("--max-queue-size", self.max_queue_size),
            ("--max-body-size", self.max_body_bytes),
        ):
            if given is not None and given < 1:
                raise ConfigError(flag, given, "1 or more")
        if not all(self.api_keys):
            raise ConfigError("--api-key", "", "a key of one character or more, or not given")
        seconds = self.request_timeout_s
        if seconds is not None and not 0 < seconds < math.inf:
            raise ConfigError("--request-timeout", seconds, "more than 0 seconds, or not given")
        if not 0 < self.send_timeout_s < math.inf:
            raise ConfigError("send_timeout_s", self.send_timeout_s, "more than 0 seconds")
        if not 0 <= self.rate <= MAX_RATE:
            raise ConfigError("--rate", self.rate, f"0 (full speed) to {MAX_RATE:.0f}")
        if not 0 <= self.shutdown_timeout_s <= 86400:
            raise ConfigError("--shutdown-timeout", self.shutdown_timeout_s, "0 to 86400 seconds")
        if self.threads is not None and self.threads < self._least_threads:
            raise ConfigError(
                "--threads",
                self.threads,
                f"{self._least_threads} or more: one for each of --max-streams {self.max_streams}, "
                f"{THREADS_PER_VIEWER} for each of --max-viewers {self.max_viewers}, and "
                f"{SPARE_THREADS} for what is short",
            )

    @property
    def num_threads(self) -> int:
        return self.threads or self._least_threads

    @property
    def _least_threads(self) -> int:
        return self.max_streams + THREADS_PER_VIEWER * self.max_viewers + SPARE_THREADS


KEY_VARIABLE = "MINIVLLM_API_KEY"


def given_keys(given: Iterable[str] | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What ``--api-key`` or the variable says. Raises ConfigError where one of them is given and
    holds no key: a secret that was not filled in must not open the server to everybody."""
    keys = [split_list([text]) for text in given or ()]
    if not all(keys):
        raise ConfigError("--api-key", "", "a key of one character or more, or not given")
    if not keys and KEY_VARIABLE in environ:
        raise ConfigError(KEY_VARIABLE, environ[KEY_VARIABLE], "a key, or not set at all")
    return tuple(key for some in keys for key in some)


def split_list(given: Iterable[str]) -> tuple[str, ...]:
    """What was given several times, or once with commas: ``["a", "b,c"]`` → ``("a", "b", "c")``."""
    return tuple(part for text in given for piece in text.split(",") if (part := piece.strip()))


def _check_choice(flag: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ConfigError(flag, given, " | ".join(allowed))
