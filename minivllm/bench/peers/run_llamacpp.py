"""llama.cpp by the package ``xllamacpp``, on the GGUF file itself (its own 4-bit weights)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from turns import Run, take_turns


def start(model: str, threads: int) -> Run:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel, params.n_ctx = 16, 16 * 1280
    params.n_gpu_layers, params.warmup = 0, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = params.cpuparams_batch.poll = 0  # no spinning while others have a turn
    server = xllamacpp.Server(params)
    pool = ThreadPoolExecutor(16)

    def one(ids: list[int], count: int) -> int:
        said: dict[str, Any] = server.handle_completions(
            {"prompt": ids, "max_tokens": count, "temperature": 0, "ignore_eos": True}
        )
        if "usage" not in said:
            raise RuntimeError(f"llama.cpp answers: {said}")
        return int(said["usage"]["completion_tokens"])

    def run(prompts: list[list[int]], outputs: list[int]) -> int:
        return sum(pool.map(one, prompts, outputs))

    return run


if __name__ == "__main__":
    take_turns(start, ["xllamacpp"])
