"""``minivllm chat``: a conversation in the terminal, streamed token by token through AsyncLLM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.cli.options import engine_flags
from minivllm.cli.sampling import sampling_flags
from minivllm.cli.stdin import lines_of_stdin
from minivllm.errors import PromptError

if TYPE_CHECKING:
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.sampling_params import SamplingParams

HELP = "/new begins a new conversation · /quit or Ctrl-D ends · Ctrl-C stops an answer"


@engine_flags
@sampling_flags(max_tokens=256)
def chat(
    system: Annotated[
        str | None, typer.Option(help="The system message at the conversation's beginning.")
    ] = None,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Talk with the model; its answer is printed as it comes.

    After each answer a line tells how many prompt tokens the prefix cache had: every turn repeats
    the whole conversation, and only what is new is computed.
    """
    from minivllm.config import make_config
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.sampling_params import SamplingParams

    params = SamplingParams(**sampling)
    read_line = _reader()
    engine.setdefault("dtype", "fast")
    llm = AsyncLLM(make_config(**engine))
    try:
        typer.secho(HELP, dim=True, err=True)
        _converse(llm, params, system, read_line)
    finally:
        llm.close()


def _converse(
    llm: AsyncLLM, params: SamplingParams, system: str | None, read_line: Callable[[], str | None]
) -> None:
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (text := read_line()) is not None:
        if text == "/quit":
            return
        if text == "/new":
            messages = list(start)
        elif text:
            asked = {"role": "user", "content": text}
            try:
                answer = _answer(llm, params, [*messages, asked])
            except PromptError as error:  # too long by now, mostly
                typer.secho(f"{error} (/new begins anew)", err=True)
                continue
            if answer is None:  # the next attempt begins where this one did
                continue
            messages += [asked, {"role": "assistant", "content": answer}]


def _answer(llm: AsyncLLM, params: SamplingParams, messages: list[dict[str, str]]) -> str | None:
    """Stream one answer to standard output; Ctrl-C ends it and keeps what was said. None: the
    engine failed on it, which is told."""
    parts: list[str] = []
    failure: str | None = None
    tokens = cached = prompt_tokens = 0
    with llm.stream(messages, params) as stream:
        try:
            for output in stream:
                if output is None:
                    continue
                sample = output.outputs[0]
                tokens += len(sample.token_ids)
                prompt_tokens, cached = len(output.prompt_token_ids), output.num_cached_tokens
                parts.append(sample.text)
                typer.echo(sample.text, nl=False)
                sys.stdout.flush()
                if sample.failed:
                    failure = f"error: the answer failed: {sample.stop_reason}"
        except KeyboardInterrupt:
            typer.secho(" [stopped]", dim=True, nl=False, err=True)
    typer.echo()
    if failure is not None:
        typer.secho(failure, err=True)
        return None
    typer.secho(
        f"{tokens} tokens · {cached} of {prompt_tokens} prompt tokens from the prefix cache",
        dim=True,
        err=True,
    )
    return "".join(parts)


def _reader() -> Callable[[], str | None]:
    """Reads one line, without surrounding space; None at the end of the input."""
    if not sys.stdin.isatty():
        lines = lines_of_stdin()
        return lambda: next((line.strip() for line in lines), None)

    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()

    def read() -> str | None:
        while True:
            try:
                return session.prompt("› ").strip()
            except KeyboardInterrupt:  # clears the line, as in a shell
                continue
            except EOFError:
                return None

    return read
