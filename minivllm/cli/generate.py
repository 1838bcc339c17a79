"""``minivllm generate``: prompts in, texts out. The offline entry (``LLM``) on the command line."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from minivllm.cli.options import engine_flags
from minivllm.cli.sampling import sampling_flags
from minivllm.cli.stdin import lines_of_stdin
from minivllm.errors import PromptError
from minivllm.trace.words import count


@engine_flags
@sampling_flags(max_tokens=64)
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="One or more prompts. None: each line of standard input is one."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt through the model's chat template.")
    ] = False,
    n: Annotated[
        int, typer.Option("-n", "--n", help="Outputs for each prompt; give a temperature, too.")
    ] = 1,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Generate text for prompts, all in one batch, and print it.

    The texts go to standard output, the statistics to standard error. Several prompts share the
    engine: they are batched, and equal beginnings are computed once.

    \b
    Example: minivllm generate "Once upon a time" "The sea is" --max-tokens 32
    """
    from minivllm import LLM, RequestOutput, SamplingParams

    given = prompts or _lines_of_stdin()
    params = SamplingParams(n=n, **sampling)
    trace, level = engine.pop("path", None), engine.pop("level", None)
    with LLM(trace=trace, trace_level=level, **engine) as llm:
        began = time.perf_counter()
        outputs: list[RequestOutput]
        if chat:
            turns = [[{"role": "user", "content": prompt}] for prompt in given]
            outputs = llm.chat(turns, params)
        else:
            outputs = llm.generate(given, params)
        seconds = time.perf_counter() - began
    for prompt, output in zip(given, outputs, strict=True):
        if len(outputs) > 1:
            typer.secho(f"── {prompt}", dim=True)
        for sample in output.outputs:
            if n > 1:
                typer.secho(f"── output {sample.index}", dim=True)
            typer.echo(sample.text)
    typer.secho(_statistics(outputs, seconds, trace), dim=True, err=True)
    failed = [sample for output in outputs for sample in output.outputs if sample.failed]
    for sample in failed:
        typer.secho(f"error: a request failed: {sample.stop_reason}", err=True)
    if failed:
        raise typer.Exit(1)


def _lines_of_stdin() -> list[str]:
    if sys.stdin.isatty():
        raise PromptError('no prompt: give one, as in `minivllm generate "Once upon a time"`')
    lines = [line for line in lines_of_stdin() if line.strip()]
    if not lines:
        raise PromptError("no prompt: standard input has no line with text")
    return lines


def _statistics(outputs: list[Any], seconds: float, trace: str | None) -> str:
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    cached = sum(output.num_cached_tokens for output in outputs)
    new = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    line = (
        f"{count(len(outputs), 'request')} · {count(prompt_tokens, 'prompt token')} "
        f"({cached} from the prefix cache) · {count(new, 'output token')} in {seconds:.1f} s "
        f"({new / seconds:.1f} per second)"
    )
    return f"{line}\ntrace: {trace}  (read it with: minivllm replay {trace})" if trace else line
