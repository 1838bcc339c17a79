"""The engine on the device: does it say what transformers says, do the recorded graphs change
nothing, does a step wait for the GPU only once, and what does a step cost.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import torch

from minivllm.bench.gpu.check import Check, Skipped
from minivllm.config import make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.factories import make_tokenizer
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.llm import LLM
from minivllm.executor.uniproc import UniprocExecutor
from minivllm.models.source import ModelSource, resolve
from minivllm.sample.transfer import HostTransfer
from minivllm.sampling_params import SamplingParams

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n",
    "Once upon a time, in a library at the end of a long street, a small robot",
    "One, two, three, four,",
    "Water boils when",
)
MARGIN = 1.0
"""In the logits of 16 bits: where the two best are nearer, either may be said."""


def greedy(model: str, count: int, **flags: Any) -> tuple[list[list[int]], float]:
    """Token ids of each prompt's answer, and the median seconds of a token."""
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    with LLM(model=model, max_num_seqs=8, max_model_len=1024, **flags) as llm:
        llm.generate(list(PROMPTS), params, use_tqdm=False)  # whatever is made on first use
        began = time.perf_counter()
        outputs = llm.generate(list(PROMPTS), params, use_tqdm=False)
        seconds = time.perf_counter() - began
    return [list(one.outputs[0].token_ids) for one in outputs], seconds / count


def reference(source: ModelSource, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """transformers' own model and tokenizer. Raises Skipped without transformers."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise Skipped(f"transformers is not installed ({error.name})") from error
    if source.kind == "gguf":
        where: dict[str, Any] = {"gguf_file": source.path.name}
        path = str(source.path.parent)
    else:
        where, path = {}, str(source.path)
    tokenizer = AutoTokenizer.from_pretrained(path, **where)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **where)
    return model.to(device).eval(), tokenizer


@torch.inference_mode()
def equals_transformers(check: Check, model: str, device: torch.device, count: int) -> None:
    """float32: the same tokens. bfloat16, given transformers' text: the same choice wherever
    its two best logits are further apart than ``MARGIN``."""
    source = resolve(model)
    exact, tokenizer = reference(source, torch.float32, device)
    ours, _ = greedy(model, count, dtype="float32")
    texts: list[list[int]] = []  # prompt and transformers' answer
    for prompt, mine in zip(PROMPTS, ours, strict=True):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=True).input_ids.to(device)
        text = exact.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
            eos_token_id=-1,  # as ignore_eos: it may come, and ends nothing
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        texts.append(ids[0].tolist() + text)
        same = next((i for i, (a, b) in enumerate(zip(mine, text, strict=True)) if a != b), count)
        check.rows.append({"prompt": prompt, "dtype": "float32", "same_tokens": same, "of": count})
        if same < count:
            check.state = "failed"
            check.words += f"{prompt!r}: token {same} is {mine[same]}, transformers' {text[same]}. "
    _agrees_in_16_bits(check, model, exact, texts, device)


def _agrees_in_16_bits(
    check: Check, model: str, exact: Any, texts: list[list[int]], device: torch.device
) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    with LLM(model=model, dtype="bfloat16", max_num_seqs=8, max_model_len=1024) as llm:
        prompts = [{"prompt_token_ids": text} for text in texts]
        outputs = llm.generate(prompts, params, use_tqdm=False)
    wrong = places = 0
    for text, output in zip(texts, outputs, strict=True):
        told = output.prompt_logprobs or []
        logits = exact(torch.tensor([text], device=device)).logits[0, :-1].float()
        best = logits.topk(2)
        ahead = (best.values[:, 0] - best.values[:, 1]) > MARGIN
        for i, tokens in enumerate(told[1:]):
            if tokens is not None and bool(ahead[i]):
                places += 1
                ours = next(token for token, one in tokens.items() if one.rank == 1)
                wrong += ours != int(best.indices[i, 0])
    row = {"prompt": "given text", "dtype": "bfloat16", "same_tokens": places - wrong, "of": places}
    check.rows.append(row)
    if wrong:
        check.state = "failed"
        check.words += f"bfloat16: {wrong} of {places} clear choices differ. "


def graphs_change_nothing(check: Check, model: str, count: int) -> None:
    """With and without recorded graphs: the same tokens, and what a token costs."""
    for dtype in ("float32", "bfloat16"):
        graphs, with_graphs = greedy(model, count, dtype=dtype)
        eager, without = greedy(model, count, dtype=dtype, enforce_eager=True)
        check.rows.append(
            {
                "dtype": dtype,
                "graphs_ms": round(1e3 * with_graphs, 2),
                "eager_ms": round(1e3 * without, 2),
                "ratio": round(without / with_graphs, 2),
                "same": graphs == eager,
            }
        )
        # In 16 bits a padded batch may round elsewhere than one that is not.
        if dtype == "float32" and graphs != eager:
            check.state, check.words = "failed", "float32: the graphs say something else"


MIX = (
    SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2),
    SamplingParams(temperature=0.8, top_k=50, top_p=0.95, max_tokens=16, ignore_eos=True),
    SamplingParams(seed=1, min_p=0.02, max_tokens=16, ignore_eos=True, prompt_logprobs=2),
    SamplingParams(
        repetition_penalty=1.2,
        frequency_penalty=0.5,
        presence_penalty=0.1,
        max_tokens=16,
        ignore_eos=True,
    ),
    SamplingParams(top_p=0.9, logit_bias={9: 2.0}, min_tokens=4, bad_words=[" the"], max_tokens=16),
)
"""One for each prompt: whatever a row may ask of the sampler."""


def waits_once(check: Check, model: str) -> None:
    """A step asks the GPU nothing before its one transfer to the host: torch raises where it would
    wait."""
    config = make_config(model=model, max_num_seqs=8, max_model_len=1024)
    executor = UniprocExecutor(config)
    client = InprocClient(EngineCore(config, executor), lockstep=True)
    runner = executor.worker.runner
    execute, fetch = runner.execute_model, HostTransfer._fetch
    steps = transfers = 0
    refused: list[str] = []  # the engine outlives a step's error, so it is kept here

    def strict(scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        nonlocal steps
        steps += 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            return execute(scheduler_output)
        except Exception as error:
            refused.append(str(error))
            raise
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def counted(transfer: HostTransfer) -> list[list[float]]:
        nonlocal transfers
        transfers += 1
        torch.cuda.set_sync_debug_mode("default")
        try:
            return fetch(transfer)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    with LLM.from_parts(client, make_tokenizer(config)) as llm:
        llm.generate(list(PROMPTS), MIX, use_tqdm=False)  # whatever is compiled on first use
        runner.execute_model = strict  # type: ignore[method-assign]
        with mock.patch.object(HostTransfer, "_fetch", counted):
            llm.generate(list(PROMPTS), MIX, use_tqdm=False)
    if refused:
        check.state, check.words = "failed", refused[0]
        return
    check.words = f"{steps} steps, {transfers} transfers to the host, no other wait for the GPU"


def pool_fits(check: Check, model: str) -> None:
    """The measured pool: how large it is, and whether a full step still finds its memory."""
    config = make_config(model=model)
    executor = UniprocExecutor(config)
    num_blocks = executor.initialize_kv_cache()
    free, total = torch.cuda.mem_get_info()
    limits = config.scheduler
    executor.worker.runner.run_largest_step(limits.max_num_batched_tokens, limits.max_num_seqs)
    torch.cuda.synchronize()
    share = 1 - free / total
    check.rows.append(
        {
            "blocks": num_blocks,
            "tokens": num_blocks * config.cache.block_size,
            "asked": config.cache.gpu_memory_utilization,
            "in_use": round(share, 3),
            "graphs": len(executor.worker.graph_sizes),
        }
    )
