"""SampleRow: what the sampler must know about one row of logits.

Counterpart in vLLM: one row of ``SamplingMetadata`` (``vllm/v1/sample/metadata.py``), which keeps
the same as tensors over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minivllm.sampling_params import SamplingParams


@dataclass(slots=True)
class SampleRow:
    """One row: whose it is, and what has been said before the token that is about to be drawn."""

    params: SamplingParams
    seed: int
    token_ids: Sequence[int]
    """Prompt and output so far, those of before a preemption included. Only read."""
    num_prompt_tokens: int
    stop_token_ids: Sequence[int] = ()
    """EOS and the caller's stop ids."""
    grammar_bitmask: torch.Tensor | None = None
    """(ceil(vocab / 32),) int32, bit i % 32 of word i // 32 set: token i is allowed. Set by
    ``sample`` from the batch's."""

    @property
    def position(self) -> int:
        """Index in its sequence of the token that is about to be drawn."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> Sequence[int]:
        return self.token_ids[self.num_prompt_tokens :]
