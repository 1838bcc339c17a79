"""``serve`` and ``chat`` take the fast numbers; what is to be exact says so, or is an ``LLM``."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.config import ModelConfig


class Started(Exception):
    pass


@pytest.mark.parametrize(("given", "dtype"), [([], "fast"), (["--dtype", "float32"], "float32")])
@pytest.mark.parametrize("command", ["serve", "chat"])
def test_serve_and_chat_are_fast_unless_told_otherwise(
    command: str, given: list[str], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(config: Any, *_: Any, **__: Any) -> None:
        assert config.model.dtype == dtype
        raise Started

    monkeypatch.setattr("minivllm.serving.serve.serve_forever", start)
    monkeypatch.setattr("minivllm.engine.async_llm.AsyncLLM", start)
    result = CliRunner().invoke(app, [command, *given], input="")
    assert isinstance(result.exception, Started), result.output


def test_the_default_elsewhere_is_exact_on_a_cpu() -> None:
    assert ModelConfig().dtype == "auto"
