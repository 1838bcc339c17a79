"""Greedy output equals transformers, token for token, whatever the scheduling.

The product of: alone or all batched · block size 4 and 16 · token budget 7, 64, 2048 · a pool with
room or one so small that requests are preempted · prefix caching on and off. With the first two
layers of the model for the whole product, with the whole model for a set that has every value of
every axis. After every step the fold of the events equals the engine's own state.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from minivllm.config import EngineConfig, make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.executor.base import Executor
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.models.source import ModelSource
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import make_header
from minivllm.trace.file import decode_event
from minivllm.trace.fold import apply, new_state
from minivllm.trace.invariants import violations
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.engine.prompts import CHATS, LONGEST, RAW_PROMPTS
from tests.helpers import engine_view, fold_view

torch = pytest.importorskip("torch")

OUTPUT_TOKENS = 8
MAX_MODEL_LEN = 1024


@dataclass(frozen=True)
class Axes:
    batched: bool
    block_size: int
    budget: int
    small_pool: bool
    caching: bool

    def __str__(self) -> str:
        return (
            f"{'batched' if self.batched else 'alone'}-bs{self.block_size}-budget{self.budget}-"
            f"{'small' if self.small_pool else 'roomy'}-{'cache' if self.caching else 'nocache'}"
        )


PRODUCT = [
    Axes(*values)
    for values in itertools.product(
        (False, True), (4, 16), (7, 64, 2048), (False, True), (True, False)
    )
]
# Every value of every axis at least once, preemption with and without the cache.
WHOLE_MODEL = [
    Axes(True, 16, 2048, True, True),
    Axes(True, 4, 64, True, False),
    Axes(True, 16, 7, False, True),
    Axes(False, 4, 2048, False, False),
]


@dataclass
class Reference:
    """A checkpoint, its prompts as token ids, and what transformers says to each."""

    path: str
    prompts: list[list[int]]
    outputs: list[list[int]]


def greedy(model: Any, prompt: list[int], n: int) -> list[int]:
    """``n`` greedy tokens of transformers, EOS being a token like any other."""
    output: list[int] = []
    ids, past = torch.tensor([prompt]), None
    with torch.inference_mode():
        for _ in range(n):
            result = model(ids, past_key_values=past, use_cache=True)
            past = result.past_key_values
            output.append(int(result.logits[0, -1].argmax()))
            ids = torch.tensor([[output[-1]]])
    return output


@pytest.fixture(scope="module")
def prompt_ids(smollm2: ModelSource) -> list[list[int]]:
    from minivllm.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(smollm2)
    # The longest comes first: it fills a small pool, grows, and those behind it must give way.
    ids = [tokenizer.encode_chat(messages) for messages in [LONGEST, *CHATS]]
    ids += [tokenizer.encode(text) for text in RAW_PROMPTS]
    assert len(ids) >= 20 and min(map(len, ids)) == 1 and max(map(len, ids)) >= 600
    return ids


@pytest.fixture(scope="module")
def whole(
    transformers_smollm2: Any, smollm2: ModelSource, prompt_ids: list[list[int]]
) -> Reference:
    outputs = [greedy(transformers_smollm2, ids, OUTPUT_TOKENS) for ids in prompt_ids]
    return Reference(str(smollm2.path), prompt_ids, outputs)


@pytest.fixture(scope="module")
def two_layers(
    transformers_smollm2: Any,
    prompt_ids: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Reference:
    """The first two layers of the same model, as a directory of safetensors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("two-layers")
    fields = transformers_smollm2.config.to_dict()
    fields.pop("quantization_config", None)  # the weights are plain float32 by now
    small = LlamaForCausalLM(LlamaConfig(**{**fields, "num_hidden_layers": 2})).eval()
    weights = transformers_smollm2.state_dict()
    small.load_state_dict({name: weights[name] for name in small.state_dict()})
    small.save_pretrained(path)
    outputs = [greedy(small, ids, OUTPUT_TOKENS) for ids in prompt_ids]
    return Reference(str(path), prompt_ids, outputs)


class Watched:
    """An engine whose every step is compared with the fold of its events."""

    def __init__(self, config: EngineConfig, executor: Executor) -> None:
        log = TraceLog(make_header(config, executor))
        log.subscribe(lambda _stream, lines: self._take(lines))
        self.state = new_state()
        self.num_preemptions = 0
        self.core = EngineCore(config, executor, Recorder(log))

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            event = decode_event(line)
            apply(self.state, event)
            self.num_preemptions += event.kind == "req.preempt"

    def run(self, prompts: list[list[int]]) -> list[list[int]]:
        """Their outputs; all are sent before the first step."""
        outputs: dict[str, list[int]] = {}
        for i, ids in enumerate(prompts):
            params = SamplingParams(temperature=0.0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
            request_id = f"p{i}-{self.core.scheduler.current_step}"
            outputs[request_id] = []
            self.core.add_request(
                EngineCoreRequest(
                    request_id=request_id, prompt_token_ids=ids, sampling_params=params
                )
            )
        while self.core.has_requests():
            for output in self.core.step().outputs:
                outputs[output.request_id] += output.new_token_ids
            assert fold_view(self.state) == engine_view(self.core)
            assert violations(self.state) == []
        return list(outputs.values())


def blocks_for(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def with_pool(config: EngineConfig, axes: Axes, prompts: list[list[int]]) -> EngineConfig:
    """The pool: room for all at once; or the smallest in which somebody is preempted.

    That one is found by dry runs of the same scheduler without a model.
    """
    need = [blocks_for(len(ids) + OUTPUT_TOKENS, axes.block_size) for ids in prompts]
    if not axes.small_pool:
        return make_config(config, num_kv_blocks=1 + sum(need))
    if not axes.batched:  # alone, nobody can be preempted: just enough for the largest
        return make_config(config, num_kv_blocks=1 + max(need))
    for num_kv_blocks in range(1 + max(need), sum(need)):
        config = make_config(config, num_kv_blocks=num_kv_blocks)
        dry = Watched(config, ScriptedExecutor(config))
        dry.run(prompts)
        if dry.num_preemptions:
            return config
    raise AssertionError("nobody is preempted in a pool of any size")


def check(reference: Reference, axes: Axes) -> None:
    from minivllm.executor.uniproc import UniprocExecutor

    config = make_config(
        model=reference.path,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        block_size=axes.block_size,
        num_kv_blocks=2,
        max_num_batched_tokens=axes.budget,
        max_num_seqs=len(reference.prompts),
        enable_prefix_caching=axes.caching,
    )
    config = with_pool(config, axes, reference.prompts)
    num_kv_blocks = config.cache.num_kv_blocks
    assert num_kv_blocks is not None
    watched = Watched(config, UniprocExecutor(config))
    if axes.batched:
        outputs = watched.run(reference.prompts)
    else:
        outputs = [watched.run([prompt])[0] for prompt in reference.prompts]
    assert outputs == reference.outputs
    if axes.batched:
        assert (watched.num_preemptions > 0) == axes.small_pool
    assert watched.core.kv.pool.num_free_blocks == num_kv_blocks - 1


@pytest.mark.parametrize("axes", WHOLE_MODEL, ids=str)
def test_whole_model(whole: Reference, axes: Axes) -> None:
    check(whole, axes)


@pytest.mark.parametrize("axes", PRODUCT, ids=str)
def test_product_with_two_layers(two_layers: Reference, axes: Axes) -> None:
    check(two_layers, axes)
