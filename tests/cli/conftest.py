"""A model of a few hundred kilobytes, for commands that must run one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.builders import reference_llama, save_hf, save_tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_hf(reference_llama(vocab_size=272), path)
    save_tokenizer(path)
    return path
