"""How many connections there may be: as many as this process may have files, at most.

A connection is an open file, and a shell commonly allows 1,024, engines, traces and pages' files
among them. The limit that is in force may be raised by any process up to a hard one, often a
thousand times as high. No counterpart in vLLM, whose ``set_ulimit`` in ``vllm/utils`` does the
same for its server (65,535 files) and bounds nothing by it.
"""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

IDLE_CONNECTIONS = 1000
"""Beside those that are being answered."""
OTHER_FILES = 256
"""Engines' pipes and sockets, the trace, pages' files, libraries."""


def allow_connections(threads: int, wanted: int) -> int:
    """Raises the limit of open files as far as ``wanted`` needs; returns what there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = wanted + OTHER_FILES
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == unlimited else min(wanted, soft - OTHER_FILES)
    if room <= threads:
        logger.warning(
            "this process may open %d files (ulimit -Hn): too few for the %d requests and pages "
            "that --max-streams and --max-viewers allow",
            soft,
            threads,
        )
    return max(room, 1)
