"""What a scheduler and a KV cache manager of one's own must have.

Counterpart in vLLM: ``vllm/v1/core/sched/interface.py``. The engine core drives the scheduler by
:class:`SchedulerInterface`, and the scheduler the block tables by :class:`KVManager`. Either can
be replaced by a class path: ``--scheduler-cls my_file.py:MyScheduler``, ``--kv-manager-cls …``;
``examples/`` has one of each. Most replacements derive from the class that is shipped and change
one method: what is inherited goes on to tell its decisions, so every viewer shows the result. What
such a class returns is checked (``checked.py``): a promise that it breaks is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from minivllm.trace.events import Reason

if TYPE_CHECKING:
    from minivllm.core.block_pool import BlockPool, KVCacheBlock
    from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
    from minivllm.engine.messages import EngineCoreOutput
    from minivllm.request import Request


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """The longest cached prefix of a request; its blocks are found, not yet taken."""

    blocks: list[KVCacheBlock]
    num_tokens: int


NO_HIT = PrefixHit([], 0)


@dataclass(frozen=True, slots=True)
class Shortage:
    """There is no room: ``need`` blocks would have to be free, ``have`` are."""

    need: int
    have: int
    reason: Reason = Reason.NO_FREE_BLOCKS


class KVManager(Protocol):
    """Which blocks hold whose tokens. ``__init__(num_blocks, config, max_model_len, trace)``.

    A class that cannot share blocks says ``prefix_caching = False``."""

    block_size: int
    pool: BlockPool
    tables: dict[str, list[KVCacheBlock]]

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that ``num_tokens`` tokens fill."""
        ...

    def block_ids(self, request: Request) -> list[int]:
        """The request's block table."""
        ...

    def num_blocks_to_start(self, request: Request) -> int:
        """Blocks without which it can never run; more than the pool has: it is refused."""
        ...

    def find_prefix(self, request: Request) -> PrefixHit:
        """The longest prefix that is cached. Takes nothing."""
        ...

    def num_blocks_needed(self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT) -> int:
        """Free blocks that it takes to hold ``num_tokens`` tokens of the request."""
        ...

    def shortage(
        self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT, kept: int = 0
    ) -> Shortage | None:
        """Why there is no room for ``num_tokens`` tokens, if ``kept`` free blocks must remain."""
        ...

    def allocate_slots(
        self, request: Request, num_new_tokens: int, hit: PrefixHit = NO_HIT
    ) -> list[int] | Shortage:
        """Make room for ``num_new_tokens`` more; returns the block ids that were added. A shortage
        changes nothing."""
        ...

    def free(self, request: Request) -> None:
        """Give back all of its blocks."""
        ...

    def withdraw_hashes(self, request: Request, num_executed_tokens: int) -> None:
        """Nobody may find what lies behind its first ``num_executed_tokens`` tokens."""
        ...


class WaitingQueue(Protocol):
    """What others than the scheduler see of the waiting queue: the head first."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Request]: ...


class SchedulerInterface(Protocol):
    """Who runs in a step. ``__init__(config, kv, max_model_len, trace)``.

    It must pass over a waiting request whose status is ``WAITING_FOR_GRAMMAR``."""

    config: Any
    current_step: int
    running: list[Request]
    requests: dict[str, Request]
    """All that have not finished, by core name."""

    @property
    def waiting(self) -> WaitingQueue: ...

    def add_request(self, request: Request) -> None: ...

    def set_config(self, config: Any) -> None:
        """Other knobs from the next step on (forks)."""
        ...

    def schedule(self) -> SchedulerOutput:
        """Decide the next step's batch."""
        ...

    def update_from_output(
        self, scheduled: SchedulerOutput, result: ModelRunnerOutput
    ) -> list[EngineCoreOutput]:
        """Take in what the batch sampled; an output for everybody who got a token or ended."""
        ...

    def fail_step(self, scheduled: SchedulerOutput, message: str) -> list[EngineCoreOutput]:
        """The batch did not run."""
        ...

    def finish(
        self, request: Request, reason: str, why: Reason | None, message: str | None = None
    ) -> None: ...

    def fail(self, request: Request, message: str, num_unsound: int) -> None: ...

    def take_ended_early(self) -> list[EngineCoreOutput]: ...
