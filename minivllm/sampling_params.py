"""SamplingParams: what a caller may ask of the sampler and of the stop checks.

Counterpart in vLLM: ``vllm/sampling_params.py``. A frozen msgspec struct, because it travels to
the engine core with the request and stands in the trace as it was given.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minivllm.errors import SamplingParamsError

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 4


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the tokens of one request are drawn, and when it ends.

    Raises :class:`~minivllm.errors.SamplingParamsError` on a value outside its range.
    """

    n: int = 1
    """Independent outputs for the prompt."""
    max_tokens: int | None = 16
    """Most output tokens; None: as many as the context leaves."""
    min_tokens: int = 0
    """Output tokens before EOS or a stop id may be drawn."""
    temperature: float = 1.0
    """0 = greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1 = off."""
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    """Also return this many most likely tokens at each position, with their raw logprobs."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        _integer("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1)
        _integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingParamsError(
                "min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})"
            )
        _number("temperature", self.temperature, 0.0, 2.0)
        _number("top_p", self.top_p, 0.0, 1.0, above=True)
        _integer("top_k", self.top_k, -1)
        _number("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**63 - 1)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if not isinstance(self.stop, list) or len(self.stop) > MAX_STOP_STRINGS:
            raise SamplingParamsError(
                "stop", self.stop, f"a list of at most {MAX_STOP_STRINGS} strings"
            )
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise SamplingParamsError("stop", text, "a non-empty string")
        if not isinstance(self.stop_token_ids, list):
            raise SamplingParamsError("stop_token_ids", self.stop_token_ids, "a list of token ids")
        for token_id in self.stop_token_ids:
            _integer("stop_token_ids", token_id, 0)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise SamplingParamsError(name, getattr(self, name), "true or false")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5


def check_priority(priority: Any) -> None:
    """Stands beside the parameters, not in them: the scheduler orders by it."""
    _integer("priority", priority, -(2**63), 2**63 - 1)


def _integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not ok or (high is not None and value > high):
        span = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise SamplingParamsError(name, value, f"a whole number {span}")


def _number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Put so that NaN, which compares with nothing, is outside.
    if not ok or not (low < value if above else low <= value) or not value <= high:
        span = f"above {low} and at most {high}" if above else f"between {low} and {high}"
        raise SamplingParamsError(name, value, f"a number {span}")
