"""InputProcessor: a caller's prompt and wishes become requests that the engine core can trust.

First room on a request's way: tokenise, check everything that can be checked before a single
block is spent, settle what was left open (``max_tokens=None``, ``seed=-1``), and make one core
request for each of the ``n`` samples. After this the core need not doubt its input.

Counterpart in vLLM: ``vllm/v1/engine/input_processor.py`` and ``parallel_sampling.py`` (the
fan-out). Left out: multimodal prompts, prompt embeddings, LoRA, beam search.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from msgspec.structs import replace

from minivllm.engine.chat_messages import check_surrogates, first_surrogate, normalise_messages
from minivllm.engine.detokenizer import ByteTokenizer
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import PromptError, PromptTooLongError, SamplingParamsError
from minivllm.sampling_params import SamplingParams, check_priority
from minivllm.structured_output.manager import GrammarCheck
from minivllm.trace.events import ReqTokenize
from minivllm.trace.tracer import OFF, Tracer

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Mapping[str, Any] | Messages
"""A text, ``{"prompt": text}``, ``{"prompt_token_ids": [ids]}``, or the messages of a chat."""

MAX_CACHE_SALT = 128
CACHE_SALT = r"^[^@/\\\x00]+$"
"""What a salt may be made of, as with vLLM."""


class TokenizerLike(ByteTokenizer, Protocol):
    """What the front end asks of :class:`minivllm.tokenizer.Tokenizer`."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def other_eos_token_ids(self) -> Sequence[int]: ...
    @property
    def added_token_ids(self) -> set[int]: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...
    def token_text(self, token_id: int) -> str: ...
    def piece(self, token_id: int) -> str: ...
    def text_after(self, token_id: int, before: Sequence[int]) -> str: ...
    def apply_chat_template(self, messages: list[dict[str, Any]]) -> str: ...
    def encode_chat(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class ProcessedInput:
    """One request, ready: ``samples[i]`` is the core request of output i."""

    request_id: str
    prompt: str | None
    """The prompt's text as the model sees it; None if ids were given."""
    prompt_token_ids: list[int]
    samples: list[EngineCoreRequest]
    arrival_ns: int = 0
    """When it came (``time.perf_counter_ns``), before anything was done with it."""


class InputProcessor:
    def __init__(
        self,
        tokenizer: TokenizerLike,
        *,
        max_model_len: int,
        num_kv_blocks: int,
        block_size: int,
        tracer: Tracer = OFF,
    ) -> None:
        """``num_kv_blocks`` counts the null block, as the pool itself does."""
        self._check_form = GrammarCheck(tokenizer.eos_token_id)
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self._usable_blocks = num_kv_blocks - 1
        self._block_size = block_size
        self._trace = tracer

    def process(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> ProcessedInput:
        """Raises PromptError, PromptTooLongError, SamplingParamsError or MissingExtraError; spends
        nothing then."""
        arrival_ns = time.perf_counter_ns()
        params = self._check_params(params)
        check_priority(priority)
        _check_cache_salt(cache_salt)
        began_ns = time.perf_counter_ns()
        text, token_ids = self._tokenise(prompt)
        if self._trace.on:
            self._trace.emit(
                ReqTokenize,
                None,
                request_id=request_id,
                characters=len(text or ""),
                tokens=len(token_ids),
                ns=time.perf_counter_ns() - began_ns,
            )
        self._check_length(len(token_ids))
        params = self._settle(params, room=self.max_model_len - len(token_ids))
        samples = [
            EngineCoreRequest(
                request_id=request_id if params.n == 1 else f"{i}_{request_id}",
                prompt_token_ids=token_ids,
                sampling_params=_sample_params(params, i),
                eos_token_id=self.tokenizer.eos_token_id,
                priority=priority,
                cache_salt=cache_salt,
                parent=None if params.n == 1 else request_id,
            )
            for i in range(params.n)
        ]
        return ProcessedInput(request_id, text, token_ids, samples, arrival_ns)

    # --- the prompt ----------------------------------------------------------------------------

    def _tokenise(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, str):
            return prompt, self._encode(prompt)
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt and "prompt" in prompt:
                raise PromptError(
                    "a prompt has 'prompt' and 'prompt_token_ids': give the text or the ids, which "
                    "may not say the same"
                )
            if "prompt_token_ids" in prompt:
                return None, self._check_ids(prompt["prompt_token_ids"])
            if isinstance(prompt.get("prompt"), str):
                return prompt["prompt"], self._encode(prompt["prompt"])
            raise PromptError(
                f"a prompt given as a dict needs the key 'prompt' (text) or 'prompt_token_ids' "
                f"(a list of ids), got the keys {sorted(map(str, prompt))}"
            )
        if isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
            if len(prompt) > self.max_model_len:  # no template writes a message in no token
                raise PromptTooLongError(self._too_long(f"at least {len(prompt)}"))
            messages = normalise_messages(prompt)
            for i, message in enumerate(messages):
                check_surrogates(message["content"], f"messages[{i}].content")
            self._check_size(sum(len(m["role"]) + len(m["content"]) for m in messages))
            text = self.tokenizer.apply_chat_template(messages)
            return text, self.tokenizer.encode_chat(messages)
        raise PromptError(
            f"a prompt is a string, {{'prompt_token_ids': [...]}} or a list of chat messages, "
            f"got {type(prompt).__name__}"
        )

    def _encode(self, text: str) -> list[int]:
        if not text:
            raise PromptError("the prompt is empty; give at least one character")
        check_surrogates(text, "prompt")
        self._check_size(len(text))
        return self.tokenizer.encode(text)

    def _check_size(self, num_characters: int) -> None:
        """Refuse what the tokenizer should not be made to work on."""
        if num_characters > self.max_model_len:  # else it fits, even at a token a character
            least = num_characters // self._longest_token
            if least > self.max_model_len:
                raise PromptTooLongError(self._too_long(f"at least {least}"))

    @cached_property
    def _longest_token(self) -> int:
        """In bytes. A character is at least one byte, so this also bounds characters."""
        return max(len(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size))

    def _check_ids(self, token_ids: Any) -> list[int]:
        if not isinstance(token_ids, Sequence) or isinstance(token_ids, (str, bytes)):
            raise PromptError(
                f"prompt_token_ids must be a list of ids, got {type(token_ids).__name__}"
            )
        if not token_ids:
            raise PromptError("prompt_token_ids is empty; give at least one id")
        self._check_length(len(token_ids))
        for i, token_id in enumerate(token_ids):
            whole = isinstance(token_id, int) and not isinstance(token_id, bool)
            if not whole or not 0 <= token_id < self.tokenizer.vocab_size:
                raise PromptError(
                    f"prompt_token_ids[{i}] must be a whole number between 0 and "
                    f"{self.tokenizer.vocab_size - 1} (the vocabulary), got {token_id!r}"
                )
        return list(token_ids)

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens == 0:
            raise PromptError("the prompt has no tokens")
        if num_tokens >= self.max_model_len:
            raise PromptTooLongError(self._too_long(str(num_tokens)))
        need = -(-num_tokens // self._block_size)
        if need > self._usable_blocks:
            raise PromptTooLongError(
                f"The KV cache holds at most {self._usable_blocks * self._block_size} tokens "
                f"({self._usable_blocks} blocks of {self._block_size}). However, your prompt "
                f"contains {num_tokens} input tokens, which need {need} blocks, so it could "
                f"never run. Please reduce the length of the prompt, or start the engine with "
                f"more KV cache (num_kv_blocks, kv_cache_memory)."
            )

    def _too_long(self, num_tokens: str) -> str:
        return (
            f"This model's maximum context length is {self.max_model_len} tokens. However, your "
            f"prompt contains {num_tokens} input tokens, which leaves no room for an answer. "
            f"Please reduce the length of the prompt."
        )

    # --- the parameters ------------------------------------------------------------------------

    def _check_params(self, params: SamplingParams) -> SamplingParams:
        """The type, and what only the model's vocabulary, or the tokenizer, can tell; with
        ``bad_words`` as token ids."""
        if not isinstance(params, SamplingParams):
            raise SamplingParamsError("sampling_params", params, "made as SamplingParams(...)")
        for name in ("stop", "bad_words"):
            for text in getattr(params, name):
                if not text.isascii() and first_surrogate(text) is not None:
                    raise SamplingParamsError(name, text, "text without lone surrogates")
        if params.bad_words:
            banned = [ids for word in params.bad_words for ids in self._spellings(word)]
            params = replace(params, bad_words_token_ids=params.bad_words_token_ids + banned)
        self._check_vocabulary("stop_token_ids", params.stop_token_ids)
        self._check_vocabulary("logit_bias", params.logit_bias)
        self._check_vocabulary("allowed_token_ids", params.allowed_token_ids or [])
        for token_ids in params.bad_words_token_ids:
            self._check_vocabulary("bad_words_token_ids", token_ids)
        if params.structured_outputs is not None:
            self._check_form(params.structured_outputs)
        return params

    def _check_vocabulary(self, name: str, token_ids: Iterable[int]) -> None:
        size = self.tokenizer.vocab_size
        for token_id in token_ids:
            if token_id >= size:
                allowed = f"ids of the vocabulary, 0 to {size - 1} (its size is {size})"
                raise SamplingParamsError(name, token_id, allowed)

    def _spellings(self, word: str) -> list[list[int]]:
        """A bad word as token ids: at a text's beginning, and after a space if that is another
        first token (as vLLM; a longer spelling would ban the end of innocent words)."""
        at_start = self.tokenizer.encode(word.lstrip(), add_special_tokens=False)
        if not at_start:
            raise SamplingParamsError("bad_words", word, "more than white space")
        after_space = self.tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        if len(after_space) == len(at_start) and after_space[0] != at_start[0]:
            return [at_start, after_space]
        return [at_start]

    def _settle(self, params: SamplingParams, room: int) -> SamplingParams:
        """Cut ``max_tokens`` to the ``room`` that the context leaves; -1 is no seed (as vLLM); what
        else ends this model's texts joins the stop ids, unless EOS is to be ignored (under a
        grammar it never is)."""
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        if params.min_tokens > max_tokens:
            raise SamplingParamsError(
                "min_tokens",
                params.min_tokens,
                f"at most {max_tokens}, what max_tokens and the context leave for the answer",
            )
        seed = None if params.seed == -1 else params.seed
        stop_ids = params.stop_token_ids
        if not params.ignore_eos or params.structured_outputs is not None:
            others = self.tokenizer.other_eos_token_ids
            stop_ids = stop_ids + [i for i in others if i not in stop_ids]
        settled = replace(params, max_tokens=max_tokens, seed=seed, stop_token_ids=stop_ids)
        self._check_first_token(settled)
        return settled

    def _check_first_token(self, params: SamplingParams) -> None:
        """Refuse what would leave the sampler nothing, as far as that shows without the logits."""
        if params.allowed_token_ids is None:
            return
        banned: set[int | None]
        banned = {ids[0] for ids in params.bad_words_token_ids if len(ids) == 1}
        if params.min_tokens and params.structured_outputs is None:  # a grammar has its own end
            banned |= {*params.stop_token_ids, self.tokenizer.eos_token_id}
        if banned.issuperset(params.allowed_token_ids):
            allowed = "with an id that bad_words, and EOS and stop ids before min_tokens, leave"
            raise SamplingParamsError("allowed_token_ids", params.allowed_token_ids, allowed)


def _sample_params(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of sample ``index``: seeds differ, so that n samples are n samples, and the
    prompt is scored once, so that the others may share its blocks."""
    seed = params.seed
    if seed is not None:
        seed = (seed + index + 2**63) % 2**64 - 2**63  # stays a signed 64-bit number
    return replace(
        params, n=1, seed=seed, prompt_logprobs=None if index else params.prompt_logprobs
    )


def _check_cache_salt(cache_salt: str | None) -> None:
    if cache_salt is None:
        return
    if not isinstance(cache_salt, str) or not 0 < len(cache_salt) <= MAX_CACHE_SALT:
        raise SamplingParamsError(
            "cache_salt", cache_salt, f"a string of 1 to {MAX_CACHE_SALT} characters"
        )
    if first_surrogate(cache_salt) is not None or not re.match(CACHE_SALT, cache_salt):
        allowed = "text without @, /, backslashes, NUL and lone surrogates"
        raise SamplingParamsError("cache_salt", cache_salt, allowed)
