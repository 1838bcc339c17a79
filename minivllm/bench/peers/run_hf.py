"""transformers' ``generate`` in bfloat16: a batch is padded on the left to its longest prompt and
runs until its longest output is done; only the tokens that were asked for count."""

from __future__ import annotations

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval().to(device)

    @torch.inference_mode()
    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        width = max(len(ids) for ids in prompts)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        longest = max(outputs)
        llm.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=False,
            pad_token_id=0,
        )
        return sum(outputs)

    return run


if __name__ == "__main__":
    take_turns(start, ["transformers", "torch"])
