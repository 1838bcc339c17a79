"""What every route knows: the engine, the model's name, and the ids of the call at hand.

Counterpart in vLLM: ``OpenAIServing`` and ``OpenAIServingModels`` in
``vllm/entrypoints/openai/``. Left out: LoRA adapters as models of their own.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field

from minivllm.api.answers import ModelCard
from minivllm.api.errors import ApiError
from minivllm.api.limits import Limits
from minivllm.engine.async_llm import AsyncLLM

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class CallIds:
    """The names of one HTTP request."""

    header: str
    """``x-request-id``: the client's own, if it sent a sane one."""
    suffix: str
    """Makes the engine's id unique though two clients may send the same header."""

    def response_id(self, prefix: str) -> str:
        return f"{prefix}-{self.header}"

    def request_id(self, prefix: str) -> str:
        return self.response_id(prefix) + self.suffix

    @staticmethod
    def of(header: str | None) -> CallIds:
        if header and _CLIENT_ID.fullmatch(header):
            return CallIds(header, "-" + uuid.uuid4().hex[:8])
        return CallIds(uuid.uuid4().hex, "")


@dataclass(slots=True)
class Service:
    """The one model behind the endpoint."""

    llm: AsyncLLM
    model: str
    limits: Limits = field(default_factory=Limits)
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, model: str | None) -> None:
        """No name means the one model there is, as with vLLM."""
        if model is not None and model != self.model:
            raise ApiError(
                404,
                f"The model {model!r} does not exist; this server has {self.model!r}.",
                param="model",
                code="model_not_found",
            )

    def card(self) -> ModelCard:
        return ModelCard(id=self.model, created=self.created, max_model_len=self.llm.max_model_len)
