"""An executor that has K and V in miniature, so that reading a wrong block gives a wrong token.

A slot of the cache holds one digest: of the token at its position and of the slot before it, read
through the request's own block table. So a slot stands for a token *and all that came before it*,
as the K and V of a real model do, and the next token is drawn from all the slots that a request
reads. Garbage in a shared block (a hash that was registered and never computed, a block that was
overwritten while somebody held it) changes the tokens of whoever reads it.
"""

from __future__ import annotations

import hashlib

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput

VOCABULARY = 24
POISON = b"poison"  # what NaN is to a real model: whoever reads it has it, too


def after(before: bytes, token_id: int) -> bytes:
    """The content of a slot, from that of the slot before it."""
    if before == POISON:
        return POISON
    return hashlib.blake2b(before + token_id.to_bytes(8, "little"), digest_size=8).digest()


def contents(token_ids: list[int]) -> list[bytes]:
    """What the slots of these tokens hold when nothing goes wrong."""
    slots: list[bytes] = []
    for token_id in token_ids:
        slots.append(after(slots[-1] if slots else b"", token_id))
    return slots


def draw(slots: list[bytes], vocabulary: int = VOCABULARY) -> int:
    digest = hashlib.blake2b(b"".join(slots), digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocabulary


def next_token(token_ids: list[int], vocabulary: int = VOCABULARY) -> int:
    """What the model says after these tokens, run alone."""
    return draw(contents(token_ids), vocabulary)


class _Row:
    def __init__(self, token_ids: list[int], table: list[int]) -> None:
        self.token_ids = token_ids
        self.table = table


class ContentExecutor:
    """``fail_next``: the next step raises, ``"early"`` (nothing has run) or ``"late"`` (all has).
    ``poison_next``: the next step's first row writes garbage and is reported as failed."""

    def __init__(self, config: EngineConfig, *_: object, vocabulary: int = VOCABULARY) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.block_size = config.cache.block_size
        self.slots: dict[tuple[int, int], bytes] = {}  # (block, offset) -> content
        self.rows: dict[str, _Row] = {}
        self.fail_next = ""
        self.poison_next = False
        self.num_failed = 0

    def describe(self) -> dict[str, object]:
        return {}

    @property
    def max_model_len(self) -> int:
        assert self.config.model.max_model_len is not None
        return self.config.model.max_model_len

    def initialize_kv_cache(self) -> int:
        assert self.config.cache.num_kv_blocks is not None
        return self.config.cache.num_kv_blocks

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        fail, self.fail_next = self.fail_next, ""
        if fail == "early":
            self._fail()
        for req_id in scheduler_output.finished_req_ids:
            self.rows.pop(req_id, None)  # it may never have come here, if its step failed
        starts = self._take_in(scheduler_output)
        drafts = scheduler_output.scheduled_spec_decode_tokens
        poisoned, self.poison_next = self.poison_next, False
        first = next(iter(scheduler_output.num_scheduled_tokens), None) if poisoned else None
        # All of the batch writes before anybody reads. Position by position, because a request
        # may share blocks that another fills in this very step.
        flat = [
            (position, req_id)
            for req_id, n in scheduler_output.num_scheduled_tokens.items()
            for position in range(starts[req_id], starts[req_id] + n)
        ]
        for position, req_id in sorted(flat):
            row = self.rows[req_id]
            before = self._read(row, position - 1) if position else b""
            known = row.token_ids + drafts.get(req_id, [])
            content = POISON if req_id == first else after(before, known[position])
            self.slots[self._slot(row, position)] = content
        result = ModelRunnerOutput(sampled_token_ids={})
        for req_id, n in scheduler_output.num_scheduled_tokens.items():
            row, end = self.rows[req_id], starts[req_id] + n
            read = [self._read(row, position) for position in range(end)]
            guessed = drafts.get(req_id, [])
            if POISON in read:
                result.errors[req_id] = "not a number"
            elif end == len(row.token_ids) + len(guessed):
                said = result.sampled_token_ids[req_id] = []
                for guess in [*guessed, None]:
                    said.append(draw(read[: len(row.token_ids)], self.vocabulary))
                    row.token_ids.append(said[-1])
                    if said[-1] != guess:
                        break
        if fail == "late":
            self._fail()
        return result

    def _take_in(self, scheduled: SchedulerOutput) -> dict[str, int]:
        """Bring the rows up to date; returns where each one starts in this step."""
        starts: dict[str, int] = {}
        for new in scheduled.scheduled_new_reqs:
            assert new.req_id not in self.rows, f"{new.req_id} is not new"
            self.rows[new.req_id] = _Row(list(new.prompt_token_ids), list(new.block_ids))
            starts[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        for req_id, blocks, start in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            row = self.rows[req_id]
            row.table = blocks if req_id in cached.resumed_req_ids else row.table + blocks
            starts[req_id] = start
        for req_id, n in scheduled.num_scheduled_tokens.items():
            guessed = scheduled.scheduled_spec_decode_tokens.get(req_id, [])
            known = len(self.rows[req_id].token_ids) + len(guessed)
            assert n >= 1 and starts[req_id] + n <= known
        return starts

    def _slot(self, row: _Row, position: int) -> tuple[int, int]:
        return row.table[position // self.block_size], position % self.block_size

    def _read(self, row: _Row, position: int) -> bytes:
        return self.slots.get(self._slot(row, position), b"never written")

    def _fail(self) -> None:
        self.num_failed += 1
        raise ValueError("out of memory, say")

    def shutdown(self) -> None:
        self.rows.clear()
