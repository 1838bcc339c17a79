"""Plans: random scenarios as plain data, which vLLM's scheduler and ours can both carry out.

A plan says everything: the knobs, who arrives when, who is aborted, which tokens each request
will say, which of them a drafter guesses. No engine is imported here, so that both drivers, each in
an environment of its own, read the same JSON.

The same seed gives the same plan. Pools are small and budgets short, because what is worth
comparing happens where something runs out.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any

EOS = 5
STOP_IDS = [9, 10]


@dataclass
class PlannedRequest:
    """Named ``r1``, ``r2`` … by its place in the plan, which is its order of arrival."""

    arrive: int
    """The step before which it arrives; 1 is the first."""
    prompt: list[int]
    max_tokens: int
    output: list[int]
    """What it says, token by token, however often it is preempted; at least ``max_tokens`` long."""
    min_tokens: int = 0
    ignore_eos: bool = True
    stop_token_ids: list[int] = field(default_factory=list)
    priority: int = 0
    cache_salt: str | None = None
    drafts: dict[str, list[int]] = field(default_factory=dict)
    """Number of output tokens (as text, for JSON) → the tokens that are then guessed to follow."""


@dataclass
class Plan:
    name: str
    knobs: dict[str, Any]
    requests: list[PlannedRequest]
    aborts: list[tuple[int, int]] = field(default_factory=list)
    """(step, number of the request); also of some that have ended, or not yet come."""
    resets: list[int] = field(default_factory=list)
    """Steps before which the prefix cache is reset, if no block is in use."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Plan:
        requests = [PlannedRequest(**request) for request in data["requests"]]
        aborts = [(step, number) for step, number in data["aborts"]]
        return Plan(data["name"], data["knobs"], requests, aborts, data["resets"])

    @property
    def last_input(self) -> int:
        """The last step before which anything is put in."""
        steps = [request.arrive for request in self.requests] + [step for step, _ in self.aborts]
        return max(steps + self.resets, default=0)


def random_plan(seed: int) -> Plan:
    rng = random.Random(seed)
    knobs = _knobs(rng)
    rush = rng.random() < 0.1
    if rush:
        knobs |= _rush(rng)
    requests = _requests(rng, knobs, rush)
    guesses = random.Random(f"drafts {seed}")
    if guesses.random() < 0.3:
        for request in requests:
            _draft(guesses, request)
    last = max(request.arrive for request in requests) + 12
    aborts = [
        (rng.randint(1, last), rng.randint(1, len(requests)))
        for _ in range(rng.choice([0, 0, 0, 1, 2, 4]))
    ]
    resets = sorted(rng.randint(1, last + 20) for _ in range(rng.choice([0, 0, 0, 0, 1, 3])))
    return Plan(f"seed {seed}", knobs, requests, sorted(aborts), resets)


def _knobs(rng: random.Random) -> dict[str, Any]:
    """What vLLM accepts: ``max_num_seqs`` at most the budget, ``max_model_len`` at most the budget
    where prompts are not chunked, and at least the threshold."""
    block_size = rng.choice([1, 2, 3, 4, 4, 4, 8, 16])
    max_model_len = rng.choice([12, 24, 40, 40, 64, 100])
    chunking = rng.random() < 0.75
    crowded = rng.random() < 0.4  # many run at once, and grow until blocks run out
    budget = rng.choice([1, 2, 4, 7, 12, 16, 20, 33, 64])
    if not chunking:
        budget += max_model_len
    # Half of the pools hold the longest request, as vLLM demands when it starts; the requests of
    # the others are cut so that each fits (``_requests``).
    longest = -(-max_model_len // block_size)
    usable = longest + rng.choice([0, 1, 3, 8]) if rng.random() < 0.5 else rng.randint(3, 16)
    return {
        "num_kv_blocks": 1 + usable,
        "block_size": block_size,
        "max_model_len": max_model_len,
        "max_num_seqs": min(budget, rng.choice([6, 8] if crowded else [1, 2, 3, 4, 5])),
        "max_num_batched_tokens": budget,
        "policy": rng.choice(["fcfs", "priority"]),
        "enable_chunked_prefill": chunking,
        "enable_prefix_caching": rng.random() < 0.8,
        "long_prefill_token_threshold": (
            min(rng.choice([0, 0, 0, 1, 3, 4, 6, 8, 12]), max_model_len) if chunking else 0
        ),
        "watermark": 0.0 if crowded else rng.choice([0.0, 0.0, 0.1, 0.15, 0.3, 0.5]),
    }


def _rush(rng: random.Random) -> dict[str, Any]:
    """Prompts in pieces, each new one more urgent, and a budget that some of them use up: grants
    of a step are taken back, and what they give back is of use to those behind."""
    threshold = rng.randint(3, 8)
    block_size = rng.choice([1, 2, 3, 4])
    max_model_len = rng.choice([40, 64, 100])
    budget = threshold * rng.randint(1, 2) + rng.randint(1, 4)
    return {
        "max_model_len": max_model_len,
        "policy": "priority",
        "block_size": block_size,
        "num_kv_blocks": 1 + -(-max_model_len // block_size) + rng.randint(0, 3),
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": threshold,
        "max_num_batched_tokens": budget,
        "max_num_seqs": min(budget, 8),
        "watermark": 0.0,
    }


def _requests(rng: random.Random, knobs: dict[str, Any], rush: bool) -> list[PlannedRequest]:
    max_len = knobs["max_model_len"]
    capacity = (knobs["num_kv_blocks"] - 1) * knobs["block_size"]  # tokens
    block_size = knobs["block_size"]
    # Few tokens and few prefixes: equal blocks are the rule.
    prefixes = [[rng.randint(1, 3) for _ in range(rng.randint(1, max_len))] for _ in range(3)]
    salts = rng.choice([[None], [None], [None, "a"], [None, "a", "b"]])
    urgent_late = rush or rng.random() < 0.5  # who comes first gives way to who comes last
    gap = 1 if rush else rng.choice([0, 0, 1, 2, 5, 30])
    talkative = rng.random() < 0.5
    requests: list[PlannedRequest] = []
    arrive = 1
    for number in range(rng.randint(2, 12)):
        prompt = list(rng.choice(prefixes))
        if requests and rng.random() < 0.3:
            # The next turn of a conversation: what was asked and answered, and a little more.
            before = rng.choice(requests)
            prompt = before.prompt + before.output[: rng.randint(0, len(before.output))]
        elif rng.random() < 0.3:
            prompt = prompt[: max(block_size, len(prompt) // block_size * block_size)]
        else:
            prompt = prompt[: rng.randint(1, len(prompt))]
        prompt += [rng.randint(1, 4) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
        prompt = prompt[: min(max_len - 1, capacity)] or [1]
        room = min(max_len - len(prompt), capacity + 1 - len(prompt))
        wanted = rng.choice([14, 20, 40, 60] if talkative else [1, 2, 3, 6, 9, 14, 20])
        max_tokens = min(wanted, room)
        min_tokens = min(rng.choice([0, 0, 1, 3]), max_tokens)
        stop_token_ids = rng.choice([[], [], STOP_IDS])
        requests.append(
            PlannedRequest(
                arrive=arrive,
                prompt=prompt,
                # Past the context: the context ends it then.
                max_tokens=wanted if max_len <= capacity else max_tokens,
                output=_output(rng, max_tokens, min_tokens),
                min_tokens=min_tokens,
                ignore_eos=rng.random() < 0.6,
                stop_token_ids=stop_token_ids,
                priority=20 - number if urgent_late else rng.choice([0, 0, 1, 2, -1]),
                cache_salt=rng.choice(salts),
            )
        )
        arrive += rng.randint(0, gap)
    return requests


def _output(rng: random.Random, length: int, min_tokens: int) -> list[int]:
    """Tokens that a sampler may draw: before ``min_tokens`` it masks EOS and the stop ids."""
    ends = rng.choice([0.0, 0.0, 0.02, 0.2])
    tokens = []
    for index in range(length):
        end = index >= min_tokens and rng.random() < ends
        tokens.append(rng.choice([EOS, *STOP_IDS]) if end else rng.randint(1, 3))
    return tokens


def _draft(rng: random.Random, request: PlannedRequest) -> None:
    """Guesses: half of them right, the others wrong from some token on. Behind the last there is
    still a token to say."""
    longest = rng.choice([1, 2, 3, 5])
    for index in range(1, len(request.output) - 1):
        if rng.random() < 0.7:
            end = min(index + rng.randint(1, longest), len(request.output) - 1)
            guess = request.output[index:end]
            if rng.random() < 0.5:
                wrong = rng.randrange(len(guess))
                guess = guess[:wrong] + [4] * (len(guess) - wrong)  # 4 is said by nobody
            request.drafts[str(index)] = guess


def say(request: PlannedRequest, num_output: int, guessed: list[int]) -> list[int]:
    """What a runner samples: the next token, and one more behind each guess that was right."""
    right = 0
    while right < len(guessed) and request.output[num_output + right] == guessed[right]:
        right += 1
    return request.output[num_output : num_output + right + 1]
