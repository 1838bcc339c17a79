"""SamplingParams: what a caller may ask of the sampler and of the stop checks.

Counterpart in vLLM: ``vllm/sampling_params.py``. A frozen msgspec struct, because it travels to
the engine core with the request and stands in the trace as it was given.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from minivllm.errors import SamplingParamsError
from minivllm.structured_output.params import StructuredOutputsParams

MAX_N = 128
MAX_INT = 2**31 - 1
"""No count of tokens and no token id is larger."""
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 4
MAX_BAD_WORDS = 128
MAX_LOGIT_BIAS = 1024
"""Tokens with a bias of their own. Like the two above it bounds what a step of a request costs."""
MAX_STOP_TOKEN_IDS = 1024
MAX_ALLOWED_TOKEN_IDS = 2**18
"""No vocabulary that is supported is larger."""
MAX_STOP_CHARS = 1000
"""Characters of a stop string or a bad word: a stream holds as many back."""
REPETITION_PENALTY = (1e-30, 1e30)
"""What a float32 can multiply and divide by."""
BIAS_LIMIT = 100.0
"""A bias beyond this is cut to it, as OpenAI and vLLM do."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the tokens of one request are drawn, and when it ends.

    Raises :class:`~minivllm.errors.SamplingParamsError` on a value outside its range.
    """

    n: int = 1
    """Independent outputs for the prompt; 1 where ``temperature`` is 0, as in vLLM."""
    max_tokens: int | None = 16
    """Most output tokens; None: as many as the context leaves."""
    min_tokens: int = 0
    """Output tokens before EOS or a stop id may be drawn."""
    temperature: float = 1.0
    """0 = greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1 = off; what is larger than the vocabulary, too."""
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the output has (-2 to 2)."""
    frequency_penalty: float = 0.0
    """The same, once for each time that the output has it (-2 to 2)."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of all tokens that prompt or output
    have. 1 = off; above 1: repeat less."""
    logit_bias: dict[int, float] = {}
    """Token id → what is added to its logit, cut to ±100."""
    allowed_token_ids: list[int] | None = None
    """Only these may be drawn."""
    bad_words: list[str] = []
    """Texts that may not be said: the last token of each is masked when the rest was just said."""
    bad_words_token_ids: list[list[int]] = []
    """The same as token ids; the input processor adds those of ``bad_words``."""
    logprobs: int | None = None
    """Also return this many most likely tokens at each position, with their raw logprobs."""
    prompt_logprobs: int | None = None
    """The same for each position of the prompt. Such a request takes nothing from the prefix cache:
    a position that is not run has no logits."""
    structured_outputs: StructuredOutputsParams | None = None
    """The form that the text must have."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        _integer("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, MAX_INT)
        _integer("min_tokens", self.min_tokens, 0, MAX_INT)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingParamsError(
                "min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})"
            )
        _number("temperature", self.temperature, 0.0, 2.0)
        if self.n > 1 and self.greedy:
            raise SamplingParamsError("n", self.n, "1 at temperature 0: all samples would be equal")
        _number("top_p", self.top_p, 0.0, 1.0, above=True)
        _integer("top_k", self.top_k, -1, MAX_INT)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, *REPETITION_PENALTY)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**63 - 1)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        _strings("stop", self.stop, MAX_STOP_STRINGS)
        _strings("bad_words", self.bad_words, MAX_BAD_WORDS)
        _token_ids("stop_token_ids", self.stop_token_ids, at_most=MAX_STOP_TOKEN_IDS)
        if self.allowed_token_ids is not None:
            most = MAX_ALLOWED_TOKEN_IDS
            _token_ids("allowed_token_ids", self.allowed_token_ids, at_least=1, at_most=most)
        if not isinstance(self.bad_words_token_ids, list):
            allowed = "a list of lists of token ids"
            raise SamplingParamsError("bad_words_token_ids", self.bad_words_token_ids, allowed)
        for token_ids in self.bad_words_token_ids:
            _token_ids("bad_words_token_ids", token_ids, at_least=1)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise SamplingParamsError(name, getattr(self, name), "true or false")
        form = self.structured_outputs
        if form is not None and not isinstance(form, StructuredOutputsParams):
            allowed = "made as StructuredOutputsParams(...)"
            raise SamplingParamsError("structured_outputs", form, allowed)
        msgspec.structs.force_setattr(self, "logit_bias", _clamped(self.logit_bias))
        for name in _FLOATS:  # 0 is 0.0, as it is after a way through another process
            msgspec.structs.force_setattr(self, name, float(getattr(self, name)))

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5


_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def check_priority(priority: Any) -> None:
    """Stands beside the parameters, not in them: the scheduler orders by it."""
    _integer("priority", priority, -(2**63), 2**63 - 1)


def _integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not ok or (high is not None and value > high):
        span = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise SamplingParamsError(name, value, f"a whole number {span}")


def _strings(name: str, value: Any, most: int) -> None:
    if not isinstance(value, list) or len(value) > most:
        raise SamplingParamsError(name, value, f"a list of at most {most} strings")
    for text in value:
        if not isinstance(text, str) or not text:
            raise SamplingParamsError(name, text, "a non-empty string")
        if len(text) > MAX_STOP_CHARS:
            given = f"one of {len(text)}"
            raise SamplingParamsError(
                name, given, f"strings of at most {MAX_STOP_CHARS} characters"
            )


def _token_ids(name: str, value: Any, at_least: int = 0, at_most: int | None = None) -> None:
    if not isinstance(value, list) or len(value) < at_least:
        number = "one or more token ids" if at_least else "token ids"
        raise SamplingParamsError(name, value, f"a list of {number}")
    if at_most is not None and len(value) > at_most:
        raise SamplingParamsError(name, f"{len(value)} of them", f"at most {at_most} token ids")
    for token_id in value:
        _integer(name, token_id, 0, MAX_INT)


def _clamped(bias: Any) -> dict[int, float]:
    if not isinstance(bias, dict) or len(bias) > MAX_LOGIT_BIAS:
        given = f"{len(bias)} of them" if isinstance(bias, dict) else bias
        allowed = f"a map of at most {MAX_LOGIT_BIAS} token ids to numbers"
        raise SamplingParamsError("logit_bias", given, allowed)
    for token_id, value in bias.items():
        _integer("logit_bias", token_id, 0, MAX_INT)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not -math.inf < value < math.inf:
            raise SamplingParamsError("logit_bias", value, f"a number (for token {token_id})")
    return {i: float(min(max(v, -BIAS_LIMIT), BIAS_LIMIT)) for i, v in bias.items()}


def _number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Put so that NaN, which compares with nothing, is outside.
    if not ok or not (low < value if above else low <= value) or not value <= high:
        span = f"above {low} and at most {high}" if above else f"between {low} and {high}"
        raise SamplingParamsError(name, value, f"a number {span}")
