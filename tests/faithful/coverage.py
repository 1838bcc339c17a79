"""What a plan brought about, as labels: the committed vectors must have each of ``WANTED``.

The labels come from our scheduler's own events, which say what was decided and why.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.faithful.drive_minivllm import DRAFTS_GIVEN_UP, Driven, Told
from tests.faithful.plans import EOS, Plan, PlannedRequest

WANTED = {
    *("policy fcfs", "policy priority", "chunking on", "chunking off"),
    *("caching on", "caching off", "threshold", "watermark", "one request at a time"),
    *("block_size 1", "block_size 16", "pool holds the longest request", "small pool"),
    *("prompt in chunks", "budget used up", "limited by long_prefill_threshold"),
    *("waiting: no_free_blocks", "waiting: watermark", "waiting: no_budget"),
    *("waiting: max_num_seqs", "waiting: chunking_off", "waiting: preempted_this_step"),
    *("victim under fcfs", "victim under priority", "victim gave way to itself"),
    *("two victims in a step", "victim preempted twice", "refund", "refund of hashed blocks"),
    *("resume", "resume with a hit", "resume after output", "refunded budget used"),
    *("hit", "hit of a block in use", "hit of a free block", "hit of another's output"),
    *("miss at the last token", "twins", "eviction", "salt"),
    *("end: EOS", "end: stop id", "end: max_tokens", "end: max_model_len", "EOS ignored"),
    *("abort while waiting", "abort while running", "abort after preemption", "abort too late"),
    *("reset", "reset refused"),
    *("drafts accepted", "drafts rejected", "drafts given up", "drafts behind an end"),
}


def labels(plan: Plan, driven: Driven) -> set[str]:
    return set(_of_knobs(plan)) | set(_of_events(plan, driven)) | set(_of_records(plan, driven))


def _of_knobs(plan: Plan) -> Iterator[str]:
    knobs = plan.knobs
    yield f"policy {knobs['policy']}"
    yield "chunking on" if knobs["enable_chunked_prefill"] else "chunking off"
    yield "caching on" if knobs["enable_prefix_caching"] else "caching off"
    yield f"block_size {knobs['block_size']}"
    if knobs["long_prefill_token_threshold"]:
        yield "threshold"
    if knobs["watermark"]:
        yield "watermark"
    if knobs["max_num_seqs"] == 1:
        yield "one request at a time"
    capacity = (knobs["num_kv_blocks"] - 1) * knobs["block_size"]
    large = capacity >= knobs["max_model_len"]
    yield "pool holds the longest request" if large else "small pool"
    if len({request.cache_salt for request in plan.requests}) > 1:
        yield "salt"


def _of_events(plan: Plan, driven: Driven) -> Iterator[str]:
    status: dict[str | None, str] = {}
    times_preempted: dict[str | None, int] = {}
    num_output: dict[str | None, int] = {}
    for told in driven.told:
        if sum(kind == "SchedVictim" for kind, _, _ in told) > 1:
            yield "two victims in a step"
        granted = sum(data["n"] for kind, _, data in told if kind == "SchedGrant")
        if granted > plan.knobs["max_num_batched_tokens"]:
            yield "refunded budget used"
        for event in told:
            kind, req, data = event
            if kind == "ReqAbort":
                yield f"abort {status.get(req, 'while waiting')}"
            elif kind in ("ReqAdmit", "ReqResume"):
                status[req] = "while running"
                if kind == "ReqResume":
                    yield "resume"
                    if data["hit"]:
                        yield "resume with a hit"
                    if num_output.get(req):
                        yield "resume after output"
            elif kind == "ReqPreempt":
                status[req] = "after preemption"
                times_preempted[req] = times_preempted.get(req, 0) + 1
                if times_preempted[req] > 1:
                    yield "victim preempted twice"
            elif kind == "ReqToken":
                num_output[req] = num_output.get(req, 0) + 1
            yield from _of_event(plan, event)


def _of_event(plan: Plan, event: Told) -> Iterator[str]:
    kind, req, data = event
    if kind == "SchedVictim":
        yield f"victim under {plan.knobs['policy']}"
        if req == data["for_req"]:
            yield "victim gave way to itself"
    elif kind == "SchedRefund":
        yield "refund"
    elif kind == DRAFTS_GIVEN_UP:
        yield kind
    elif kind == "SpecAccept":
        yield "drafts accepted"
    elif kind == "SpecReject":
        ended = data["why"].value == "output_ended"
        yield "drafts behind an end" if ended else "drafts rejected"
    elif kind == "KvUncache":
        yield "refund of hashed blocks"
    elif kind == "SchedChunk":
        yield "prompt in chunks"
    elif kind == "SchedStop":
        yield f"waiting: {data['reason'].value}"
    elif kind == "SchedSkip" and data.get("kept") and data["need"] <= data["have"] + data["kept"]:
        yield "waiting: watermark"
    elif kind == "SchedLedger":
        if data["used"] == data["budget"]:
            yield "budget used up"
        for row in data["rows"]:
            if row.limited_by is not None:
                yield f"limited by {row.limited_by.value}"
    elif kind == "KvTouch":
        yield "hit"
        yield "hit of a block in use" if data["ref"] > 1 else "hit of a free block"
    elif kind == "KvMiss" and data["reason"].value == "last_token":
        yield "miss at the last token"
    elif kind == "KvEvict":
        yield "eviction"
    elif kind == "KvReset":
        yield "reset"


def _of_records(plan: Plan, driven: Driven) -> Iterator[str]:
    ended: set[str] = set()
    for step, record in enumerate(driven.steps, start=1):
        if False in record["reset"]:
            yield "reset refused"
        if any(f"r{number}" in ended for when, number in plan.aborts if when == step):
            yield "abort too late"
        if any(len(twins) > 1 for twins in record.get("cached", [])):
            yield "twins"
        for req, start, _ in record.get("grants", []):
            request = plan.requests[int(req[1:]) - 1]
            if req in record["new"] and _is_answer(plan, request, request.prompt[:start]):
                yield "hit of another's output"
        for req, tokens, finish, stop, _ in record.get("outputs", []):
            request = plan.requests[int(req[1:]) - 1]
            if finish is not None:
                ended.add(req)
                yield _end(plan, request.max_tokens, len(request.output), finish, stop)
            elif EOS in tokens and request.ignore_eos:
                yield "EOS ignored"


def _is_answer(plan: Plan, request: PlannedRequest, hit: list[int]) -> bool:
    """Was part of what was hit said by another request, and asked by none?"""
    others = [r for r in plan.requests if r is not request]
    asked = any(other.prompt[: len(hit)] == hit for other in others)
    said = any((other.prompt + other.output)[: len(hit)] == hit for other in others)
    return bool(hit) and said and not asked


def _end(plan: Plan, max_tokens: int, room: int, finish: str, stop: int | None) -> str:
    if finish == "stop":
        return "end: EOS" if stop is None else "end: stop id"
    return "end: max_tokens" if max_tokens <= room else "end: max_model_len"
