"""The log: one set-up for all processes of a server, as text or as JSON, on stderr.

    12:03:44.120 INFO    POST '/v1/completions' request_id=9f2c status=200 ms=812.4 …
    {"time": "…", "level": "INFO", "message": "POST '/v1/completions'", "request_id": "9f2c", …}

What a client sent may stand in a message: control characters are escaped in both forms, so that
nobody writes a line of their own into the log, or a colour into a terminal. Prompts and answers
are never logged. What an engine's process says comes through the front end's log, too
(``engine/process.py``). Counterpart in vLLM: ``vllm/logger.py``. Standard library only.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OURS = ("minivllm", "viz")


def set_up(log_format: str, level: str) -> None:
    """Send this process's log to stderr, from ``level`` on. Libraries tell of trouble only: their
    chatter may quote what a client sent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    number = int(getattr(logging, level.upper()))
    root.setLevel(max(logging.WARNING, number))
    for name in _OURS:
        logging.getLogger(name).setLevel(number)


def escaped(text: str) -> str:
    """``text`` on one line, without anything a terminal would obey."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class TextLines(logging.Formatter):
    """For people. A traceback of ours keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock}.{record.msecs:03.0f} {record.levelname:7}"
        line = f"{head} {escaped(record.getMessage())}"
        fields = getattr(record, "fields", {})
        line += "".join(f" {name}={escaped(str(value))}" for name, value in fields.items())
        if record.exc_info:
            told = self.formatException(record.exc_info).splitlines()
            line += "".join("\n    " + escaped(text) for text in told)
        return line


class JsonLines(logging.Formatter):
    """For programs: one object a line; ``fields`` of a record are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{clock}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # pure ASCII: whatever was sent is escaped
