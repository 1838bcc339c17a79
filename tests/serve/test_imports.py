"""The front end needs no torch until a model is started."""

from __future__ import annotations

import pytest

import minivllm


def test_the_whole_front_end_imports_without_the_engines_packages(python_without):
    code = """
import minivllm, minivllm.api.server, minivllm.engine.async_llm, minivllm.engine.llm
from minivllm import LLM, AsyncLLM, SamplingParams, RequestOutput, CompletionOutput
print(minivllm.__version__)
"""
    done = python_without(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == minivllm.__version__


def test_importing_the_package_loads_next_to_nothing(python_without):
    code = "import minivllm, sys; print([m for m in sys.modules if m.startswith('minivllm.')])"
    assert python_without(code, blocked=()).stdout.strip() == "[]"


@pytest.mark.parametrize("entry", ["LLM", "AsyncLLM"])
def test_without_torch_an_entry_says_what_is_missing(python_without, entry):
    done = python_without(f"import minivllm; minivllm.{entry}()")
    assert done.returncode != 0
    assert "MissingExtraError: running a model needs the engine's part" in done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = minivllm.NoSuchThing
    assert "LLM" in dir(minivllm)
