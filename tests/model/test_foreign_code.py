"""Pitfall: ``--trust-remote-code`` behaviour by default. Code that lies in a model's directory is
neither imported nor asked about; a template from a client is refused (tests/serve)."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from minivllm import LLM, SamplingParams
from minivllm.errors import ModelFileError
from minivllm.models.source import ModelSource
from minivllm.tokenizer import get_tokenizer
from tests.model.builders import reference_llama, save_gguf, save_hf, save_tokenizer

CODE = """
from pathlib import Path
(Path(__file__).parent / "ran").write_text("")
from transformers import LlamaConfig as OwnConfig, PreTrainedTokenizerFast as OwnTokenizer
from transformers import LlamaForCausalLM as OwnModel
"""
AUTO_MAP = {
    "AutoConfig": "own_code.OwnConfig",
    "AutoModelForCausalLM": "own_code.OwnModel",
    "AutoTokenizer": ["own_code.OwnTokenizer", "own_code.OwnTokenizer"],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The questions that were put to the terminal."""
    questions: list[str] = []

    def yes(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", yes)
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return questions


def put_code(directory: Path) -> None:
    """Everything by which transformers could be led to run a directory's own code."""
    (directory / "own_code.py").write_text(CODE)
    for name, more in (
        ("config.json", {"model_type": "own"}),
        ("tokenizer_config.json", {"tokenizer_class": "OwnTokenizer"}),
    ):
        path = directory / name
        fields: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**fields, **more, "auto_map": AUTO_MAP}))


def nothing_ran(directory: Path, asked: list[str]) -> bool:
    imported = [name for name in sys.modules if "own_code" in name]
    return not (directory / "ran").exists() and not imported and not asked


def test_a_models_own_code_is_not_run(asked: list[str], tmp_path: Path) -> None:
    source = save_hf(reference_llama(vocab_size=272), tmp_path / "m")
    save_tokenizer(source.path)
    put_code(source.path)
    with LLM(str(source.path), num_kv_blocks=8) as llm:
        (output,) = llm.generate(["ab"], SamplingParams(max_tokens=2), use_tqdm=False)
    assert output.outputs[0].token_ids
    assert nothing_ran(source.path, asked)


def test_nor_when_its_tokenizer_must_be_converted(asked: list[str], tmp_path: Path) -> None:
    source = save_hf(reference_llama(vocab_size=272), tmp_path / "m")
    put_code(source.path)
    with pytest.raises(ModelFileError, match="no tokenizer that can be read"):
        get_tokenizer(source)
    assert nothing_ran(source.path, asked)


def test_nor_what_lies_beside_a_gguf_file(asked: list[str], tmp_path: Path) -> None:
    source: ModelSource = save_gguf(
        reference_llama(vocab_size=272), tmp_path / "m.gguf", tokenizer=True
    )
    put_code(tmp_path)
    try:
        get_tokenizer(source)
    except ModelFileError:
        pass  # transformers may stumble over the strange names; it must not run them
    assert nothing_ran(tmp_path, asked)
