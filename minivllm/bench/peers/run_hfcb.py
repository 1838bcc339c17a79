"""transformers' continuous batching in bfloat16. Its thread looks for work without a pause, so a
turn starts it and stops it; the model stays, and so does its cache."""

from __future__ import annotations

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval().to(device)
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    limits = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=2048)

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        with llm.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=limits, persistent_manager=True
        ) as manager:
            for ids, length in zip(prompts, outputs, strict=True):
                manager.add_request(ids, max_new_tokens=length, eos_token_id=-1)
            return sum(len(manager.get_result().generated_tokens) for _ in prompts)

    return run


if __name__ == "__main__":
    take_turns(start, ["transformers", "torch"])
