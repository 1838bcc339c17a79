"""What a class of one's own returned is checked here, before anything is built on it.

A scheduler that forgets its ``return`` or a KV manager that hands out a block twice would else fail
far away, in code that its author never saw. ``make`` derives from the class and looks at every
result once; the shipped classes are used as they are, so this costs them nothing. No counterpart
in vLLM. What the class raises itself is left alone: its traceback names the line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from minivllm.core.interfaces import KVManager, PrefixHit, SchedulerInterface, Shortage
from minivllm.core.own_class import find_class, name_of
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.errors import ConfigError, OwnClassError
from minivllm.request import Request

Check = Callable[..., "str | None"]
"""(the object, the result, the arguments) → what is wrong with the result."""

MAX_IDLE_STEPS = 1_000
"""A scheduler may hold requests back for a while, to gather a batch; so long it has got stuck."""


def make(
    field: str, given: str | type, shipped: dict[str, Any], interface: type, *args: Any
) -> Any:
    """An object of the class that the configuration's ``field`` names: a shipped one as it is, one
    of one's own checked. Raises ConfigError where it is not found or cannot be made."""
    cls = find_class(field, given, shipped, interface)
    if cls in shipped.values():
        return cls(*args)
    attributes, takes, checks = _PROMISED[interface]
    name = name_of(given)
    try:
        made = _checked(cls, name, checks)(*args)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        allowed = f"a class whose __init__ takes ({takes}) and does not fail ({problem})"
        raise ConfigError(field, name, allowed) from error
    if lacking := [each for each in attributes if not hasattr(made, each)]:
        allowed = f"what {interface.__name__} lists; after __init__ it lacks {', '.join(lacking)}"
        raise ConfigError(field, name, allowed)
    return made


def _checked(cls: type, name: str, checks: dict[str, Check]) -> type:
    """A class that is ``cls`` in all but this: a result that breaks a promise is an error."""
    more: dict[str, Any] = {"__module__": cls.__module__, "own_class": name}
    derived: type = type(cls)(cls.__name__, (cls,), more)
    derived.__qualname__ = cls.__qualname__
    for method, check in checks.items():
        setattr(derived, method, _method(derived, method, f"{name}.{method}()", check))
    return derived


def _method(derived: type, method: str, name: str, check: Check) -> Any:
    @wraps(getattr(derived, method))
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = getattr(super(derived, self), method)(*args, **kwargs)
        except SystemExit as error:
            raise OwnClassError(name, "has called sys.exit") from error
        if (problem := check(self, result, *args, **kwargs)) is not None:
            raise OwnClassError(name, problem)
        return result

    return call


class IdleWatch:
    """Ends a run in which requests wait and none will ever start, since nothing changes."""

    def __init__(self, own: list[str]) -> None:
        self.own = own  # their names
        self._num_idle = 0

    @classmethod
    def over(cls, *parts: object) -> IdleWatch | None:
        """None where all are ours."""
        own = [part.own_class for part in parts if hasattr(part, "own_class")]
        return cls(own) if own else None

    def see(self, scheduled: SchedulerOutput, scheduler: SchedulerInterface) -> None:
        """Raises OwnClassError after :data:`MAX_IDLE_STEPS` steps without a token."""
        waiting = [r.req_id for r in scheduler.waiting if not r.waits_for_grammar]
        if scheduled.total_num_scheduled_tokens or not (waiting or scheduler.running):
            self._num_idle = 0
            return
        self._num_idle += 1
        if self._num_idle >= MAX_IDLE_STEPS:
            who = waiting[0] if waiting else scheduler.running[0].req_id
            raise OwnClassError(
                " and ".join(self.own),
                f"let no token run for {MAX_IDLE_STEPS} steps, though {who} is there to run "
                "(the trace tells in each step why it does not)",
            )


# --- the promises: what is wrong with a result? ---------------------------------------------------


def _is(*kinds: type) -> Check:
    names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)

    def check(_: Any, result: Any, *args: Any, **kwargs: Any) -> str | None:
        return None if isinstance(result, kinds) else f"must return {names}, got {result!r}"

    return check


def _number(_: Any, result: Any, *args: Any, **kwargs: Any) -> str | None:
    if isinstance(result, int) and not isinstance(result, bool) and result >= 0:
        return None
    return f"must return a number of blocks, got {result!r}"


def _prefix(kv: Any, hit: Any, request: Request) -> str | None:
    if not isinstance(hit, PrefixHit):
        return f"must return PrefixHit, got {hit!r}"
    fill = -(-hit.num_tokens // kv.block_size)
    if fill != len(hit.blocks) or hit.num_tokens < 0:
        return f"gave {len(hit.blocks)} blocks for a hit of {hit.num_tokens} tokens, not {fill}"
    if hit.num_tokens >= request.num_tokens:
        return (
            f"gave a hit of {hit.num_tokens} tokens for {request.req_id}, which has "
            f"{request.num_tokens}: one at least must run"
        )
    return _wrong_ids(kv, [block.block_id for block in hit.blocks])


def _added(kv: Any, added: Any, request: Request, n: int, hit: Any = None) -> str | None:
    if isinstance(added, Shortage):
        return None
    if not isinstance(added, list):
        return f"must return a list of block ids or Shortage, got {added!r}"
    table = kv.block_ids(request)
    if problem := _wrong_ids(kv, added) or _wrong_ids(kv, table):
        return problem
    if added != table[len(table) - len(added) :]:
        return f"gave {added}, which are not the last of {request.req_id}'s table {table}"
    for block_id in added:
        if kv.pool.blocks[block_id].ref_cnt < 1:
            return f"gave block {block_id}, which the pool holds for free"
    num_tokens = request.num_computed_tokens + (hit.num_tokens if hit else 0) + n
    if num_tokens > len(table) * kv.block_size:
        return f"left {request.req_id} {len(table)} blocks for {num_tokens} tokens"
    return None


def _wrong_ids(kv: Any, ids: list[Any]) -> str | None:
    last = len(kv.pool.blocks) - 1
    for block_id in ids:
        if not isinstance(block_id, int) or not 1 <= block_id <= last:
            return f"gave block {block_id!r}; there are blocks 1 to {last}"
    if len(set(ids)) < len(ids):
        return f"gave a block twice: {ids}"
    return None


def _freed(kv: Any, _: Any, request: Request) -> str | None:
    return f"left {request.req_id} its table" if request.req_id in kv.tables else None


_PROMISED: dict[type, tuple[tuple[str, ...], str, dict[str, Check]]] = {
    KVManager: (
        ("block_size", "pool", "tables"),
        "num_blocks, config, max_model_len, trace",
        {
            "blocks_for": _number,
            "block_ids": _is(list),
            "num_blocks_to_start": _number,
            "find_prefix": _prefix,
            "num_blocks_needed": _number,
            "shortage": _is(Shortage, type(None)),
            "allocate_slots": _added,
            "free": _freed,
        },
    ),
    SchedulerInterface: (
        ("config", "current_step", "running", "requests", "waiting"),
        "config, kv, max_model_len, trace",
        {
            "schedule": _is(SchedulerOutput),
            "update_from_output": _is(list),
            "fail_step": _is(list),
            "take_ended_early": _is(list),
        },
    ),
}
