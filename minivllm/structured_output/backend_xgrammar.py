"""xgrammar: parses and compiles grammars, and tells which tokens may follow.

Counterpart in vLLM: ``vllm/v1/structured_output/backend_xgrammar.py``. The library is the extra
``[structured]`` and is imported when the first structured request comes, not before: it takes torch
along. Its bitmask is filled into a numpy array (any DLPack array will do), so what leaves this room
is bytes, and the engine core needs neither.

Special tokens never pass. xgrammar matches bytes, and those of ``<|im_end|>`` are fine inside a
JSON string; so to it such a token has no bytes at all, which it takes for a token that no grammar
can produce. EOS and what else ends this model's texts are its stop tokens: allowed where the
grammar may end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from minivllm.errors import MissingExtraError, StructuredOutputError
from minivllm.structured_output.interface import TokenMask
from minivllm.structured_output.params import GrammarSpec

if TYPE_CHECKING:
    import numpy as np

MAX_WHITESPACE = 20
"""Characters of white space between two parts of JSON: enough for a line break and an indent, and
no more, for a small model may say nothing else until its tokens are used up."""


class Vocabulary(Protocol):
    """What is asked of the tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def other_eos_token_ids(self) -> Sequence[int]: ...
    @property
    def added_token_ids(self) -> set[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...


def load() -> Any:
    """The library; the first call takes seconds. Raises MissingExtraError."""
    try:
        import xgrammar
    except ImportError as error:
        raise MissingExtraError(
            f"structured output needs xgrammar ({error.name} is not installed): "
            "pip install 'minivllm[structured]'"
        ) from error
    return xgrammar


def parse(spec: GrammarSpec) -> Any:
    """The grammar itself, not yet compiled for a vocabulary. Raises StructuredOutputError with the
    library's own words."""
    grammar = load().Grammar
    try:
        if spec.kind == "json":
            return grammar.from_json_schema(
                spec.text, any_whitespace=not spec.compact, max_whitespace_cnt=MAX_WHITESPACE
            )
        if spec.kind == "regex":
            return grammar.from_regex(spec.text)
        return grammar.from_ebnf(spec.text)
    except Exception as error:  # of a kind of its own for each of its parts
        kinds = {
            "json": "a JSON Schema that can be kept to",
            "regex": "a regular expression that xgrammar knows",
            "grammar": 'an EBNF grammar with the rule "root ::= …"',
        }
        allowed = f"{kinds[spec.kind]}: {_reason(error)}"
        raise StructuredOutputError(spec.kind, allowed) from None


def _reason(error: Exception) -> str:
    """The library's message without the place in its source: ``[18:09:51] /…/x.cc:83: What``."""
    text = " ".join(str(error).split())
    head, colon, tail = text.partition(": ")
    return tail if colon and ".cc" in head else text


@dataclass(frozen=True, slots=True)
class Compiled:
    grammar: Any
    """xgrammar's ``CompiledGrammar``."""
    only: np.ndarray | None
    """(1, ceil(vocab / 32)) int32: tokens that are masked whatever the grammar says have no bit."""


class XGrammarBackend:
    """Compiles for one vocabulary. Several threads may call it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._making = threading.Lock()

    def prepare(self) -> None:
        with self._making:
            _ = self._compiler

    def compile(self, spec: GrammarSpec) -> Compiled:
        """Raises StructuredOutputError."""
        self.prepare()
        grammar = self._compiler.compile_grammar(parse(spec))
        compiled = Compiled(grammar, self._printable if spec.kind == "json" else None)
        if not any(self.matcher(compiled).mask().words):  # "root ::= root", [^\s\S]
            raise StructuredOutputError(spec.kind, "one that a text can follow: no token may begin")
        return compiled

    def size_bytes(self, compiled: Compiled) -> int:
        return int(compiled.grammar.memory_size_bytes)

    def matcher(self, compiled: Compiled) -> XGrammarMatcher:
        """A place in the grammar, for one request."""
        return XGrammarMatcher(compiled, self._vocabulary.vocab_size)

    @cached_property
    def _pieces(self) -> list[bytes]:
        known = self._vocabulary
        return [
            b"" if i in known.added_token_ids else known.token_bytes(i)
            for i in range(known.vocab_size)
        ]

    @cached_property
    def _printable(self) -> np.ndarray:
        """Tokens without control characters but line breaks. JSON needs no others, and has none
        inside strings; xgrammar lets them pass in a string that has a ``maxLength``."""
        import numpy as np

        bits: np.ndarray = np.zeros(-(-len(self._pieces) // 32) * 32, dtype=np.uint8)
        bits[: len(self._pieces)] = [
            all(byte >= 0x20 or byte == 0x0A for byte in piece) for piece in self._pieces
        ]
        return np.packbits(bits, bitorder="little").view("<i4")[None]

    @cached_property
    def _compiler(self) -> Any:
        xgrammar = load()
        known = self._vocabulary
        info = xgrammar.TokenizerInfo(
            self._pieces,
            vocab_type=xgrammar.VocabType.RAW,
            vocab_size=known.vocab_size,
            stop_token_ids=[known.eos_token_id, *known.other_eos_token_ids],
        )
        # One thread, for the cores are the model's; no cache, for ours is bounded and told of.
        return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


class XGrammarMatcher:
    """Where one request stands in its grammar (a ``Grammar`` of ``core/interfaces.py``)."""

    def __init__(self, compiled: Compiled, vocab_size: int) -> None:
        import numpy as np

        self._matcher = load().GrammarMatcher(compiled.grammar)
        self._only = compiled.only
        self._vocab_size = vocab_size
        self._words: np.ndarray = np.zeros((1, -(-vocab_size // 32)), dtype=np.int32)

    def mask(self) -> TokenMask:
        self._matcher.fill_next_token_bitmask(self._words, 0)
        if self._only is not None:
            self._words &= self._only
        words = self._words.tobytes()
        num_allowed = int.from_bytes(words, "little").bit_count()
        return TokenMask(words, num_masked=self._vocab_size - num_allowed)

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))
