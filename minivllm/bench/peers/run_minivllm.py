"""minivllm itself, as ``bench compare`` measures it."""

from __future__ import annotations

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    import torch

    from minivllm import LLM, SamplingParams

    torch.set_num_threads(threads)
    llm = LLM(model, dtype="fast")

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in outputs]
        given = [{"prompt_token_ids": ids} for ids in prompts]
        done = llm.generate(given, params, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in done)

    return run


if __name__ == "__main__":
    take_turns(start)
