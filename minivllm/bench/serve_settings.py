"""What ``bench serve`` was asked to do: checked, and turned into an endpoint and a load.

The names are those of the flags, which are vLLM's where vLLM has them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minivllm.bench import serve_data as data
from minivllm.bench.serve import Load
from minivllm.bench.serve_client import BACKENDS, Endpoint
from minivllm.bench.serve_metrics import METRICS
from minivllm.errors import ConfigError

LEAST = {
    "num_prompts": 1,
    "num_warmups": 0,
    "seed": 0,
    "max_concurrency": 1,
    "random_input_len": 1,
    "random_output_len": 1,
    "random_token_ids": 1,
    "shared_prefix_len": 1,
    "num_prefixes": 1,
}
RANGES = {
    "request_rate": (0.001, math.inf),
    "burstiness": (0.05, 1e6),
    "random_range_ratio": (0.0, 0.99),
    "timeout": (0.001, 1e6),
    "temperature": (0.0, 2.0),
}


@dataclass(frozen=True, slots=True)
class Settings:
    backend: str = "openai"
    base_url: str = "http://127.0.0.1:8000"
    endpoint: str | None = None
    model: str | None = None
    timeout: float = 600.0
    """Seconds, of one request."""
    num_prompts: int = 100
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int | None = None
    num_warmups: int = 0
    seed: int = 0
    dataset_name: str = "random"
    dataset_path: Path | None = None
    random_input_len: int = 128
    random_output_len: int | None = None
    """None: 32, and for a file what it says."""
    random_range_ratio: float = 0.0
    random_token_ids: int | None = None
    """A size of vocabulary."""
    shared_prefix_len: int = 64
    num_prefixes: int = 4
    ignore_eos: bool = False
    temperature: float = 0.0
    extra_body: str | None = None
    goodput: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError that names the flag."""
        _one_of("--backend", self.backend, BACKENDS)
        _one_of("--dataset-name", self.dataset_name, data.DATASETS)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(flag(name), value, f"{least} or more")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:  # nan is in no range
                raise ConfigError(flag(name), getattr(self, name), f"{low:g} to {high:g}")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError("--base-url", self.base_url, "such as http://127.0.0.1:8000")
        if self.chat and self.random_token_ids is not None:
            raise ConfigError("--random-token-ids", self.random_token_ids, "with --backend openai")
        if (self.dataset_name == "file") != (self.dataset_path is not None):
            given = None if self.dataset_path is None else str(self.dataset_path)
            raise ConfigError("--dataset-path", given, "a file, together with --dataset-name file")
        self.limits()
        self.fields()

    @property
    def chat(self) -> bool:
        return self.backend == "openai-chat"

    @property
    def loads_by_rate(self) -> bool:
        return self.request_rate != math.inf

    @property
    def root(self) -> str:
        """The base URL, whether it was given with ``/v1`` or without."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def target(self, model: str, headers: dict[str, str]) -> Endpoint:
        path = self.endpoint or BACKENDS[self.backend]
        url = f"{self.root}/{path.lstrip('/')}"
        return Endpoint(url, model, self.chat, headers, self.fields(), self.timeout)

    def fields(self) -> dict[str, Any]:
        """What stands in every request's body beside the prompt."""
        fields: dict[str, Any] = {"temperature": self.temperature}
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.extra_body is not None:
            try:
                more = json.loads(self.extra_body)
            except ValueError:
                more = None
            if not isinstance(more, dict):
                raise ConfigError("--extra-body", self.extra_body, "an object such as '{\"n\": 1}'")
            fields |= more
        return fields

    def limits(self) -> dict[str, float]:
        """``--goodput ttft:200`` → seconds by metric."""
        found = {}
        for text in self.goodput:
            name, _, ms = text.partition(":")
            try:
                found[name] = float(ms) / 1e3
            except ValueError:
                found[name] = math.nan
            if name not in METRICS or name == "itl" or not found[name] > 0:
                raise ConfigError("--goodput", text, "ttft, tpot or e2el, such as ttft:200 (ms)")
        return found

    def asks(self) -> list[data.Ask]:
        """The warm-ups first, then the load."""
        n = self.num_warmups + self.num_prompts
        if self.dataset_path is not None:
            asks = data.read(self.dataset_path, n, self.random_output_len)
            if not self.chat and any(data.is_messages(ask.prompt) for ask in asks):
                allowed = "prompts; messages need --backend openai-chat"
                raise ConfigError("--dataset-path", str(self.dataset_path), allowed)
            return asks
        lengths = data.Lengths(
            input=self.random_input_len,
            output=self.random_output_len or data.Lengths().output,
            range_ratio=self.random_range_ratio,
            prefix=self.shared_prefix_len,
            num_prefixes=self.num_prefixes,
        )
        return data.draw(self.dataset_name, n, lengths, self.seed, self.random_token_ids)

    def loads(self) -> tuple[Load | None, Load]:
        """The warm-up, if there is one, and what is measured."""
        asks = self.asks()
        before, measured = asks[: self.num_warmups], asks[self.num_warmups :]
        plan = None
        if self.loads_by_rate:
            plan = data.arrivals(len(measured), self.request_rate, self.burstiness, self.seed)
        load = Load(measured, plan, self.max_concurrency)
        return (Load(before, None, self.max_concurrency) if before else None), load

    def told(self) -> dict[str, Any]:
        """For the JSON file."""
        told = asdict(self)
        rate = self.request_rate if self.loads_by_rate else "inf"  # JSON has no infinity
        path = None if self.dataset_path is None else str(self.dataset_path)
        return told | {"request_rate": rate, "dataset_path": path}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_of(name: str, given: str, allowed: Any) -> None:
    if given not in allowed:
        raise ConfigError(name, given, ", ".join(allowed))
