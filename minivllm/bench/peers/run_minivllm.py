"""minivllm itself, as ``bench compare`` measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turns import Run, take_turns

if TYPE_CHECKING:
    from minivllm import LLM

FACTS: dict[str, Any] = {}


def start(model: str, threads: int) -> Run:
    import torch

    from minivllm import LLM, SamplingParams

    torch.set_num_threads(threads)
    llm = LLM(model, dtype="fast")
    FACTS.update(facts_of(llm))

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in outputs]
        given = [{"prompt_token_ids": ids} for ids in prompts]
        done = llm.generate(given, params, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in done)

    return run


def facts_of(llm: LLM) -> dict[str, Any]:
    """The version, and by what it runs: dtype, kernel path."""
    import minivllm
    from minivllm.engine.inproc_client import InprocClient

    described: dict[str, Any] = {}
    if isinstance(llm.client, InprocClient):  # with an engine in this process, as start makes it
        described = llm.client.core.executor.describe()
    told = ("dtype", "device", "kernel_path")
    return {"version": minivllm.__version__, **{name: described.get(name) for name in told}}


if __name__ == "__main__":
    take_turns(start, ["torch"], FACTS)
