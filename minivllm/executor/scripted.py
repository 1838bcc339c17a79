"""ScriptedExecutor: an executor with no model; every request says tokens that were given before.

For scenarios, replay, the lessons and the tests: real scheduler, real pool, no torch. It checks
what a worker relies on (tables long enough, tokens in order), so that a wrong batch is an error
here, too, and not just a wrong answer on a real model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput

DEFAULT_MAX_MODEL_LEN = 8192

NextToken = Callable[[str, int], int]
"""(core name, index of the output token) → the token id it says there."""


def counting_tokens(req_id: str, index: int) -> int:
    """Placeholder tokens that differ by place and by request: no two contents are equal."""
    return 1_000_000 + int(req_id[1:]) * 10_000 + index


def strangers_tokens(req_id: str, index: int) -> int:
    """Placeholders of a request that was not planned: no other request says one of these."""
    return 1_000_000_000 + counting_tokens(req_id, index)


@dataclass(slots=True)
class _Row:
    num_tokens: int
    num_prompt_tokens: int
    num_blocks: int


class ScriptedExecutor:
    """Says ``next_token(req_id, index)`` whenever a request's last known token has run."""

    def __init__(self, config: EngineConfig, next_token: NextToken = counting_tokens) -> None:
        self.config = config
        self.next_token = next_token
        self._rows: dict[str, _Row] = {}

    def describe(self) -> dict[str, object]:
        return {
            "model": "none",
            "dtype": "none",
            "device": "none",
            "threads": 0,
            "kernel_path": "none",
            "fidelity": "given",
        }

    @property
    def max_model_len(self) -> int:
        return self.config.model.max_model_len or DEFAULT_MAX_MODEL_LEN

    def initialize_kv_cache(self) -> int:
        """Without a number, and no model whose blocks could be measured, two requests of the
        longest fit beside the null block."""
        if self.config.cache.num_kv_blocks is not None:
            return self.config.cache.num_kv_blocks
        return 1 + 2 * -(-self.max_model_len // self.config.cache.block_size)

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        for req_id in scheduler_output.finished_req_ids:
            self._rows.pop(req_id, None)  # unknown here if the step that brought it failed
        start: dict[str, int] = {}
        for new in scheduler_output.scheduled_new_reqs:
            n = len(new.prompt_token_ids)
            self._rows[new.req_id] = _Row(n, n, len(new.block_ids))
            start[new.req_id] = new.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        for req_id, blocks, computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            row = self._rows[req_id]
            resumed = req_id in cached.resumed_req_ids
            row.num_blocks = len(blocks) if resumed else row.num_blocks + len(blocks)
            start[req_id] = computed

        sampled: dict[str, list[int]] = {}
        for req_id, n in scheduler_output.num_scheduled_tokens.items():
            row, end = self._rows[req_id], start[req_id] + n
            drafts = scheduler_output.scheduled_spec_decode_tokens.get(req_id, [])
            if n < 1 or end > row.num_tokens + len(drafts):
                raise RuntimeError(f"{req_id}: tokens {start[req_id]} to {end} of {row.num_tokens}")
            if end > row.num_blocks * self.config.cache.block_size:
                raise RuntimeError(f"{req_id}: {end} tokens do not fit in {row.num_blocks} blocks")
            if end == row.num_tokens + len(drafts):
                sampled[req_id] = self._say(req_id, row, drafts)
        return ModelRunnerOutput(sampled_token_ids=sampled)

    def _say(self, req_id: str, row: _Row, drafts: list[int]) -> list[int]:
        """Its next token; and while that is what the draft says, the one after it, too."""
        said: list[int] = []
        for draft in [*drafts, None]:
            index = row.num_tokens - row.num_prompt_tokens
            said.append(self.next_token(req_id, index))
            row.num_tokens += 1
            if said[-1] != draft:
                break
        return said

    def shutdown(self) -> None:
        self._rows.clear()
