"""What ``minivllm replay --verify`` prints: verified, or the first event that is not the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from minivllm.errors import ConfigError
from minivllm.trace.words import count

if TYPE_CHECKING:
    from pathlib import Path

    from minivllm.replay.verify import Verdict

TOKENS = ("recorded", "recompute")


def check_tokens(tokens: str) -> None:
    if tokens not in TOKENS:
        raise ConfigError("--tokens", tokens, " | ".join(TOKENS))


def verify(
    path: Path, tokens: str, model: str | None, engine: int | None = None, life: int | None = None
) -> int:
    """Verify each engine's run in a trace, or the one that is named; returns the exit status."""
    from minivllm.errors import ReplayError
    from minivllm.replay.model import with_model
    from minivllm.replay.recording import read_recording
    from minivllm.replay.verify import verify as verify_recording
    from minivllm.trace.file import life_name, read_trace
    from minivllm.trace.pick import pick

    check_tokens(tokens)
    if model is not None and tokens != "recompute":
        raise ConfigError("--model", model, "only with --tokens recompute: else no model runs")
    trace = read_trace(path)
    if not trace.engines:
        raise ReplayError(f"{path} cannot be run again: it has no engine's events")
    status = 0
    lives = trace.lives()
    if engine is not None or life is not None:
        picked = pick(trace, engine, life)
        lives = {life_name(picked.stream, picked.life): picked.trace}
    for name, run in lives.items():
        recording = read_recording(run, run.engines[0])
        if tokens == "recompute":
            executor, text = with_model(recording, model)
            verdict = verify_recording(recording, executor, text, with_logprobs=False)
            if (dtype := trace.header.dtype) not in ("float32", "none", ""):
                verdict.notes.append(
                    f"recorded in {dtype}, run again in float32: where two tokens were nearly as "
                    "likely, the other one may come"
                )
        else:
            verdict = verify_recording(recording)
        alone = len(trace.lives()) == 1
        _print(path.name if alone else f"{path.name}, {name}", verdict, tokens)
        status = max(status, 0 if verdict.difference is None else 1)
    return status


def _print(name: str, verdict: Verdict, tokens: str) -> None:
    recording, difference = verdict.recording, verdict.difference
    if difference is None:
        how = "with the recorded tokens"
        if tokens == "recompute":
            how = "and the model says the same tokens"
        typer.echo(
            f"{name}: verified. {count(recording.last_step, 'step')} run again, {how}: "
            f"all {count(verdict.num_events, 'event')} are the same"
        )
    else:
        typer.echo(
            f"{name}: NOT verified. Run again, it differs first in step {difference.step}, after "
            f"{count(verdict.num_events, 'equal event')}:"
        )
        for line in difference.lines():
            typer.echo(f"  {line}")
    for note in verdict.notes:
        typer.echo(f"  note: {note}")
