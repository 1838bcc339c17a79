"""Where the time of a step goes: a workload of ``compare.py`` with timers around its stages.

    schedule ─ plan ─ embedding ─ layers × (before ─ attention ─ after) ─ head ─ sampler ─ outputs

Three runs of the workload, each with fresh prompts: one warms up, one runs as ever, one with the
timers on (``timers.py``), so that what they cost themselves is told, too. A layer on codes
(``quantized.py``) is timed around its C calls, any other as a whole: what it does until attention
is asked is *before*, then *after*; where its matrix products are modules (float32), they are apart.
Nothing is traced. No counterpart in vLLM, whose profiler (``vllm/profiler/``) tells of kernels.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from minivllm.attention.metadata import AttentionMetadata, AttentionStep
from minivllm.bench.compare import Turn, Workload
from minivllm.bench.timers import BETWEEN, REST, StepTimes, Timers, ns_per_call, replace
from minivllm.errors import SetupError
from minivllm.models.causal_lm import CausalLM
from minivllm.models.layers import Linear
from minivllm.models.quantized import QuantizedLayer
from minivllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from minivllm.bench.roofline import Roofline
    from minivllm.core.scheduler_output import SchedulerOutput
    from minivllm.engine.engine_core import EngineCore
    from minivllm.engine.llm import LLM

STAGES = {
    "schedule": "schedule",
    "plan": "batch and attention plan",
    "embedding": "embedding, rotation angles",
    "before": "before attention: norm, q|k|v, rotation",
    "before_products": "before attention: products q|k|v",
    "attention": "attention, with the store",
    "after": "after attention: o, norm, MLP",
    "after_products": "after attention: products o, MLP",
    "head": "head: norm, logits",
    "sampler": "sampler",
    "outputs": "outputs and events",
    REST: "Python between the stages",
    BETWEEN: "between steps: texts, hand-over",
}
"""Key → words, in the order of a step."""
APART = {
    "before": "before attention: norm, rotation",
    "after": "after attention: norms, SiLU",
}
"""Words of what is left where a layer's products are told apart."""
DECODE, PROMPT = "decode", "with prompt"


@dataclass(slots=True)
class Kind:
    """All steps of one kind together."""

    name: str
    num_steps: int
    num_tokens: int
    ns: dict[str, int]

    @property
    def total_ns(self) -> int:
        return sum(self.ns.values())

    def ms(self, stage: str) -> float:
        """Per step."""
        return self.ns.get(stage, 0) / self.num_steps / 1e6

    @property
    def total_ms(self) -> float:
        return self.total_ns / self.num_steps / 1e6

    def share(self, stage: str) -> float:
        return self.ns.get(stage, 0) / (self.total_ns or 1)


@dataclass(slots=True)
class Profile:
    """One workload's run."""

    workload: str
    title: str
    kinds: list[Kind]
    seconds_plain: float
    seconds_timed: float
    num_calls: int
    """Of timed functions, in the run that was timed."""
    ns_per_call: float

    @property
    def ratio(self) -> float:
        """Of the run with timers to the one without; noise included."""
        return self.seconds_timed / self.seconds_plain

    @property
    def timers_share(self) -> float:
        """What the timers take of the time they measure, by their number."""
        return self.num_calls * self.ns_per_call / 1e9 / self.seconds_timed


@dataclass(frozen=True, slots=True)
class Least:
    """The least time of a step by the roofline: all weights read once, or all tokens multiplied
    with those of the layers, whichever takes longer."""

    ms: float
    why: str


def run(llm: LLM, workload: Workload, rng: random.Random) -> Profile:
    """Raises SetupError where the work was not done, or not on a CPU in this process."""
    core = core_of(llm)
    _seconds(llm, workload.make(rng))
    plain = _seconds(llm, workload.make(rng))
    timers, turn = Timers(), workload.make(rng)
    with timers_on(core, timers):
        timed = _seconds(llm, turn)
        timers.finish()
    kinds = kinds_of(timers.steps)
    return Profile(
        workload.name, workload.title, kinds, plain, timed, timers.num_calls, ns_per_call()
    )


def core_of(llm: LLM) -> EngineCore:
    core: Any = getattr(llm.client, "core", None)
    worker = core and getattr(core.executor, "worker", None)
    if worker is None or worker.device.type != "cpu":
        raise SetupError(
            "bench profile measures steps that one thread of this process computes on a CPU; a GPU "
            "goes on while Python does, and another process has its own clock",
            "hide the GPU (CUDA_VISIBLE_DEVICES=), or take a profiler of its own there",
        )
    found: EngineCore = core
    return found


def kinds_of(steps: list[StepTimes]) -> list[Kind]:
    """Those that there are, prompts first."""
    kinds = []
    for name in (PROMPT, DECODE):
        chosen = [step for step in steps if step.decodes == (name == DECODE)]
        if chosen:
            ns = {key: sum(step.ns.get(key, 0) for step in chosen) for key in STAGES}
            tokens = sum(step.num_tokens for step in chosen)
            kinds.append(Kind(name, len(chosen), tokens, ns))
    return kinds


def words(stage: str, profiles: list[Profile]) -> str:
    apart = any(k.ns.get("after_products") for p in profiles for k in p.kinds)
    return APART.get(stage, STAGES[stage]) if apart else STAGES[stage]


def least(kind: Kind, roofline: Roofline, weight_bytes: int, layer_params: int) -> Least:
    read = Least(1e3 * weight_bytes / roofline.read_bytes_s, "weights read once")
    flops = 2 * layer_params * kind.num_tokens / kind.num_steps
    multiply = Least(1e3 * flops / roofline.flops_s, "FLOPs of the layers")
    return max(read, multiply, key=lambda one: one.ms)


def weight_bytes(model: CausalLM, file_bytes: int) -> int:
    """What a decode step reads: the file's codes, or the parameters in their dtype."""
    if model.has_int4 or any(isinstance(layer, QuantizedLayer) for layer in model.layers):
        return file_bytes
    return model.spec.num_params * model.embed_tokens.dtype.itemsize


def layer_params(model: CausalLM) -> int:
    """Without embedding and head, which few tokens need."""
    spec = model.spec
    tables = 1 if spec.tie_word_embeddings else 2
    return spec.num_params - tables * spec.vocab_size * spec.hidden_size


@contextmanager
def timers_on(core: Any, timers: Timers) -> Iterator[None]:
    """Timers around the stages of the engine's steps; at the end, also after an error, none."""
    runner, scheduler = core.executor.worker.runner, core.scheduler
    with ExitStack() as undo:
        replace(undo, core, "step", _step(timers, core.step))
        replace(undo, scheduler, "schedule", _schedule(timers, scheduler.schedule))
        replace(undo, runner.backend, "prepare", _prepare(timers, runner.backend.prepare))
        wrap = partial(_wrap, undo, timers)
        wrap("plan", runner.batch, "update")
        wrap("plan", runner.batch, "build")
        wrap("plan", runner.inputs, "load")
        _wrap_model(undo, timers, runner.model)
        wrap("sampler", runner, "_sample")  # the head, which it calls, has a timer of its own
        wrap("outputs", scheduler, "update_from_output")
        wrap("outputs", core.stats, "of_step")
        wrap("outputs", core, "_wrap")
        yield


def _wrap(undo: ExitStack, timers: Timers, stage: str, owner: Any, name: str) -> None:
    replace(undo, owner, name, timers.timed(stage, getattr(owner, name)))


def _wrap_model(undo: ExitStack, timers: Timers, model: CausalLM) -> None:
    wrap = partial(_wrap, undo, timers)
    look_up = model.embed or partial(F.embedding, weight=model.embed_tokens)
    replace(undo, model, "embed", timers.timed("embedding", look_up))
    wrap("embedding", model.rotary, "forward")
    wrap("head", model, "compute_logits")
    for layer in model.layers:
        if isinstance(layer, QuantizedLayer):
            wrap("before", layer, "_before")
            wrap("after", layer, "_after")
            continue
        wrap("before", layer, "forward")  # its second half is "after": see TimedAttention
        for module in layer.modules():
            if isinstance(module, Linear):
                replace(undo, module, "forward", _product(timers, module.forward))


def _step(timers: Timers, step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        timers.begin_step()
        try:
            return step()
        finally:
            timers.leave()

    return run


def _schedule(
    timers: Timers, schedule: Callable[[], SchedulerOutput]
) -> Callable[[], SchedulerOutput]:
    timed = timers.timed("schedule", schedule)

    def run() -> SchedulerOutput:
        scheduled: SchedulerOutput = timed()
        step = timers.steps[-1]
        step.num_tokens = scheduled.total_num_scheduled_tokens
        step.num_decode_tokens = scheduled.num_decode_tokens
        return scheduled

    return run


def _prepare(timers: Timers, prepare: Callable[..., AttentionStep]) -> Callable[..., AttentionStep]:
    timed = timers.timed("plan", prepare)

    def run(metadata: AttentionMetadata, block_size: int) -> AttentionStep:
        return TimedAttention(timers, timed(metadata, block_size))

    return run


def _product(timers: Timers, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A matrix product belongs to the side of attention on which it runs."""
    before, after = (timers.timed(f"{side}_products", forward) for side in ("before", "after"))
    return lambda x: (before if timers.stage == "before" else after)(x)


class TimedAttention:
    """An attention step; the layer that has called it is *after* attention from then on."""

    def __init__(self, timers: Timers, step: AttentionStep) -> None:
        self._timers, self._forward = timers, timers.timed("attention", step.forward)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = self._forward(q, k, v, kv_cache)
        if self._timers.stage == "before":
            self._timers.become("after")
        return out


def _seconds(llm: LLM, turn: Turn) -> float:
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in turn.outputs]
    prompts: list[Any] = [{"prompt_token_ids": ids} for ids in turn.prompts]
    begin = time.perf_counter()
    done = llm.generate(prompts, params, use_tqdm=False)
    took = time.perf_counter() - begin
    made = sum(len(one.outputs[0].token_ids) for one in done)
    if made != sum(turn.outputs):
        reasons = sorted({str(one.outputs[0].finish_reason) for one in done})
        raise SetupError(
            f"the engine made {made} tokens instead of {sum(turn.outputs)} (it ended them by "
            f"{', '.join(reasons)})",
            "take a model whose context and vocabulary hold the workload, 1,056 tokens with ids "
            "up to 40,000",
        )
    return took
