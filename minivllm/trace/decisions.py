"""What a step decided, as phrases: the form in which two runs' decisions are compared and told."""

from __future__ import annotations

from minivllm.trace.events import Event
from minivllm.trace.words import join, span


def decisions(events: list[Event]) -> dict[str | None, str]:
    """What a step decided, a phrase for each request it says something about.

    Under None stands the batch: the order of those who ran.
    """
    told: dict[str | None, list[str]] = {}

    def tell(req: str | None, words: str) -> None:
        told.setdefault(req, []).append(words)

    for event in events:
        data, req = event.data, event.req
        match event.kind:
            case "req.admit" | "req.resume":
                verb = "is admitted" if event.kind == "req.admit" else "resumes"
                tell(req, f"{verb} ({data.hit} of {data.tokens} tokens reused)")
            case "sched.skip":
                tell(req, f"is passed over ({data.reason.value})")
            case "sched.stop":
                for other in data.behind:
                    tell(other, f"waits behind {data.head} ({data.reason.value})")
            case "sched.victim":
                who = "itself" if data.for_req == req else data.for_req
                tell(req, f"gives way to {who}")
            case "batch.compose":
                for row in data.rows:
                    tokens = span(row.start + 1, row.start + row.n)
                    tell(row.req, f"runs {tokens} ({row.why.value})")
                if data.rows:
                    tell(None, f"the batch is {join([row.req for row in data.rows], 64)}")
            case "sched.ledger":
                for row in data.rows:
                    if not row.granted and row.limited_by and row.req not in told:
                        tell(row.req, f"runs nothing ({row.limited_by.value})")
            case "req.error":
                tell(req, f"fails: {data.message}")
            case "req.finish":
                why = f", {data.why.value}" if data.why else ""
                tell(req, f"ends ({data.reason}{why})")
            case "run.error":
                tell(None, f"the step fails ({data.error})")
    return {req: ", ".join(words) for req, words in told.items()}
