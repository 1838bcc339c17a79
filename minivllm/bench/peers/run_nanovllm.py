"""nano-vllm, as ``bench gpu`` measures it. It samples only, so not greedy; it reads Qwen3 from a
directory with a tokenizer."""

from __future__ import annotations

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    from nanovllm import LLM, SamplingParams

    llm = LLM(model, enforce_eager=False, max_model_len=2048)

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        params = [SamplingParams(temperature=1.0, max_tokens=n, ignore_eos=True) for n in outputs]
        done = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(one["token_ids"]) for one in done)

    return run


if __name__ == "__main__":
    take_turns(start, ["nano-vllm", "torch"])
