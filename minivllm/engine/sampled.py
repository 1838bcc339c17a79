"""What a step has sampled, as its ``sample`` event tells it.

No counterpart in vLLM, which tells a caller's logprobs and nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minivllm.core.scheduler_output import ModelRunnerOutput, SampleDetail
from minivllm.request import Request
from minivllm.trace import events as ev
from minivllm.trace.texts import CONTEXT
from minivllm.trace.tracer import Tracer


def sample_rows(
    result: ModelRunnerOutput, requests: Mapping[str, Request], trace: Tracer
) -> list[ev.SampleRow]:
    """A row for each token; ``requests`` are as they were before the tokens joined them."""
    rows: list[ev.SampleRow] = []
    for req_id, token_ids in result.sampled_token_ids.items():
        logprobs = result.logprobs.get(req_id, [])
        details = result.details.get(req_id, [])
        before = requests[req_id].token_ids[-CONTEXT:]
        for i, token_id in enumerate(token_ids):
            known = logprobs[i] if i < len(logprobs) else None
            detail = details[i] if i < len(details) else None
            rows.append(
                ev.SampleRow(
                    req=req_id,
                    token_id=token_id,
                    text=trace.text(token_id, before + token_ids[:i]),
                    logprob=known.logprob if known else None,
                    rank=known.rank if known else None,
                    **(_told_in_detail(detail, trace) if detail else {}),
                )
            )
    return rows


def _told_in_detail(detail: SampleDetail, trace: Tracer) -> dict[str, Any]:
    """What is told from trace level ``sampling`` on."""
    text = trace.text
    return {
        "before": [
            ev.Candidate(token_id=i, text=text(i), logprob=logprob) for i, logprob in detail.before
        ],
        "after": [
            ev.Candidate(token_id=i, text=text(i), probability=probability)
            for i, probability in detail.after
        ],
        "processors": [
            ev.ProcessorEffect(
                name=effect.name,
                masked=effect.masked,
                count=effect.count,
                token_ids=effect.token_ids,
                texts=[text(i) for i in effect.token_ids],
            )
            for effect in detail.effects
        ],
    }
