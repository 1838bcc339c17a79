"""``/v1/completions``: how a completion's choices and chunks are written.

OpenAI's older route, and the plain way to the engine: the prompt is taken as it is, as text or as
token ids, without a chat template. Counterpart in vLLM:
``vllm/entrypoints/openai/completion/serving.py``. Left out: echo, suffix, best_of.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from minivllm.api.chat import LOGPROB_FLOOR
from minivllm.outputs import CompletionOutput, Logprob


class CompletionFormat:
    object = "text_completion"
    chunk_object = "text_completion"
    prompt_logprobs_in_choice = True

    def __init__(self) -> None:
        self._offsets: dict[int, int] = defaultdict(int)  # choice -> characters told so far

    def choice(self, index: int, output: CompletionOutput) -> dict[str, Any]:
        return {
            "index": index,
            "text": output.text,
            "logprobs": self._logprobs(index, output),
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }

    def opening(self, index: int) -> None:
        return None

    def deltas(self, index: int, output: CompletionOutput) -> list[dict[str, Any]]:
        if output.text or output.logprobs or output.finish_reason is not None:
            return [self.choice(index, output)]
        return []

    def _logprobs(self, index: int, output: CompletionOutput) -> dict[str, Any] | None:
        """Four columns with one entry a token; ``text_offset`` counts characters of tokens."""
        if output.logprobs is None:
            return None
        columns: dict[str, list[Any]] = {
            "text_offset": [],
            "token_logprobs": [],
            "tokens": [],
            "top_logprobs": [],
        }
        for token_id, row in zip(output.token_ids, output.logprobs, strict=False):
            text = row[token_id].decoded_token
            columns["text_offset"].append(self._offsets[index])
            columns["token_logprobs"].append(max(row[token_id].logprob, LOGPROB_FLOOR))
            columns["tokens"].append(text)
            columns["top_logprobs"].append(_by_text(row))
            self._offsets[index] += len(text)
        return columns


def _by_text(row: dict[int, Logprob]) -> dict[str, float]:
    """Token text to logprob; of two tokens that look alike, the likelier stands."""
    best = sorted(row.values(), key=lambda logprob: -logprob.logprob)
    told: dict[str, float] = {}
    for logprob in best:
        told.setdefault(logprob.decoded_token, max(logprob.logprob, LOGPROB_FLOOR))
    return told
