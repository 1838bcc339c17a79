"""What ``bench serve`` asks for: prompts and output lengths, drawn from a seed or read from a file.

    random          words drawn at random; no two prompts begin alike, so no prefix is shared
    shared-prefix   each prompt begins with one of a few long prefixes (a system prompt, say)
    file            JSON lines ``{"prompt" or "messages", "output_tokens"}``, or ShareGPT's list of
                    conversations, of which the first question is asked

There is no tokenizer here, since the server may be anybody's: a length in tokens is taken for as
many short English words, which most vocabularies have as one token each. The report has what the
server counted. ``token_ids`` draws ids instead, and then the length is exact; a chat takes text
only. Counterpart in vLLM: ``vllm/benchmarks/datasets.py``. Left out: images, and data sets by name.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivllm.errors import ConfigError

DATASETS = ("random", "shared-prefix", "file")

CHARACTERS_PER_TOKEN = 4
"""Of English, roughly: how long ShareGPT's answers are taken to be."""

_COMMON = """
the of and to in a is that it was for on are as with his they at be this from have or by one had
not but what all were when we there can an your which their said if do will each about how up
out them then she many some so these would other into has more her two like him see time could
no make than first been its who now people my made over did down only way find use may water
long little very after words called just where most know get through back much before go good
new write our used me man too any day same right look think also around another came come work
three word must because does part even place well such here take why things help put years
different away again off went old number great tell men say small every found still between name
should home big give air line set own under read last never us left end along while might next
sound below saw something thought both few those always looked show large often together asked
house world going want school important until form food keep children feet land side without boy
once animals life enough took four head above kind began
"""
WORDS = _COMMON.split()

Prompt = str | list[int] | list[dict[str, Any]]
"""Text, token ids, or a chat's messages."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to be made."""

    prompt: Prompt
    prompt_tokens: int
    """As it was asked for; what the server counts may differ."""
    output_tokens: int | None
    """``max_tokens``; None leaves it to the server."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of the drawn data sets, in tokens."""

    input: int = 128
    output: int = 32
    range_ratio: float = 0.0
    """Lengths are drawn evenly from ``len × (1 ± range_ratio)``."""
    prefix: int = 64
    num_prefixes: int = 4


def draw(kind: str, n: int, lengths: Lengths, seed: int, token_ids: int | None = None) -> list[Ask]:
    """``n`` requests of ``random`` or ``shared-prefix``; the same for the same seed.

    ``token_ids``: draw ids below this instead of words.
    """
    rng = random.Random(seed)
    sizes = _Sizes(rng, lengths.range_ratio)
    prefixes: list[list[Any]] = [[]]
    if kind == "shared-prefix":
        prefixes = [_pieces(rng, lengths.prefix, token_ids) for _ in range(lengths.num_prefixes)]
    asks = []
    for number in range(n):
        own = _pieces(rng, sizes.near(lengths.input), token_ids)
        pieces = prefixes[number % len(prefixes)] + own
        prompt = pieces if token_ids else " ".join(pieces)
        asks.append(Ask(prompt, len(pieces), sizes.near(lengths.output)))
    if kind == "shared-prefix":
        rng.shuffle(asks)  # or the prefixes would come by turns
    return asks


@dataclass(frozen=True, slots=True)
class _Sizes:
    rng: random.Random
    ratio: float

    def near(self, length: int) -> int:
        low, high = length * (1 - self.ratio), length * (1 + self.ratio)
        return max(1, self.rng.randint(round(low), round(high)))


def _pieces(rng: random.Random, n: int, token_ids: int | None) -> list[Any]:
    return [rng.randrange(token_ids) for _ in range(n)] if token_ids else rng.choices(WORDS, k=n)


def read(path: Path, n: int, output_tokens: int | None = None) -> list[Ask]:
    """``n`` requests of a file, in its order, from the beginning again where it is too short.

    ``output_tokens`` overrides what the file says. Raises ConfigError that names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, f"a file that can be read ({error})") from error
    whole = text.lstrip().startswith("[")
    found = list(_conversations(path, text) if whole else _lines(path, text))
    if not found:
        raise _bad(path, "a file with at least one request")
    asks = [found[number % len(found)] for number in range(n)]
    if output_tokens is None:
        return asks
    return [Ask(ask.prompt, ask.prompt_tokens, output_tokens) for ask in asks]


def _lines(path: Path, text: str) -> Iterator[Ask]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad(path, f"one JSON object a line (line {number}: {error})") from error
        where = f"line {number}"
        if not isinstance(row, dict):
            raise _bad(path, f"one JSON object a line ({where} is none)")
        if "conversations" in row:
            if (ask := _first_turn(row)) is not None:
                yield ask
            continue
        prompt = row.get("prompt", row.get("messages"))
        if not prompt or not isinstance(prompt, str | list):
            raise _bad(path, f"a prompt or messages in each line ({where} has none)")
        output = row.get("output_tokens", row.get("max_tokens"))
        if output is not None and (type(output) is not int or output < 1):
            raise _bad(path, f"output_tokens of 1 or more ({where} has {output!r})")
        yield Ask(prompt, _guess(prompt), output)


def _conversations(path: Path, text: str) -> Iterator[Ask]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise _bad(path, f"a JSON list of conversations ({error})") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
            raise _bad(path, f"conversations in each entry, as in ShareGPT (entry {number})")
        if (ask := _first_turn(row)) is not None:
            yield ask


def _first_turn(row: dict[str, Any]) -> Ask | None:
    """The first question, and an answer as long as the one it got; None without an answer."""
    said = [str(turn.get("value", "")) for turn in row["conversations"] if isinstance(turn, dict)]
    if len(said) < 2 or not said[0].strip():
        return None
    return Ask(said[0], _guess(said[0]), _guess(said[1]))


def is_messages(prompt: Prompt) -> bool:
    """A chat's, which only a chat's endpoint takes."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)


def _guess(prompt: Prompt) -> int:
    """Tokens, roughly: for the report only where the server counts none."""
    if isinstance(prompt, str):
        return max(1, len(prompt) // CHARACTERS_PER_TOKEN)
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    return max(1, len(json.dumps(prompt)) // CHARACTERS_PER_TOKEN)


def _bad(path: Path, allowed: str) -> ConfigError:
    return ConfigError("--dataset-path", str(path), allowed)


def arrivals(n: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """When each request is to start, in seconds: gaps of a gamma distribution with this shape.

    1 is a Poisson process, less comes in bursts, more comes evenly. All are stretched so that the
    last one comes at ``n / rate``: the rate is what was asked for, whatever was drawn.
    """
    rng = random.Random(seed)
    at, times = 0.0, []
    for _ in range(n):
        at += rng.gammavariate(burstiness, 1 / burstiness)
        times.append(at)
    return [time * n / rate / at for time in times]
