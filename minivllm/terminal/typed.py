"""What is typed into a run without a server: how it is read, and how it comes again in a fork."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minivllm.errors import PromptError
from minivllm.replay.recording import Input, apply_input, inputs_of
from minivllm.scenario import ScenarioRun
from minivllm.terminal.history import History
from minivllm.trace.recorder import Recorder

TYPED = "typed-"
"""So begin the ids of requests that were typed."""
FIRST_WORD = 2_000_000
"""Ids of words that no recording has; no model and no placeholder has one that large."""


class TypedAgain:
    """A scenario from its start again, with all that was done to it while it was stepped through:
    a prompt, an abort, a knob, each before the step before which it was applied."""

    def __init__(
        self, run: ScenarioRun, history: History, at_step: int, knobs: dict[str, Any]
    ) -> None:
        """``knobs``: changed from ``at_step`` on; what was changed later does not undo them."""
        self.run, self.core, self.recorder = run, run.core, run.recorder
        self._inputs = _typed_inputs(history, at_step, knobs)
        self._ids = {name: r.request_id for name, r in history.state().requests.items()}
        typed = [given.arrive for inputs in self._inputs.values() for given in inputs]
        arrived = [arrive for arrive in typed if arrive is not None]
        self.num_requests = run.num_requests + len(arrived)
        texts: dict[int, str] = {}
        for arrive in arrived:
            texts.update(zip(arrive.prompt_token_ids, arrive.texts, strict=False))
        show_texts(run.recorder, texts)

    @property
    def done(self) -> bool:
        return self.run.done and not self._inputs

    def step(self) -> None:
        number = self.core.scheduler.current_step + 1
        for given in self._inputs.pop(number, ()):
            apply_input(self.core, given, self._ids)
        self.run.step()


def _typed_inputs(history: History, at_step: int, knobs: dict[str, Any]) -> dict[int, list[Input]]:
    """Step → what was done before it that the scenario does not do by itself."""
    steps = dict(history.steps)
    if history.open is not None:
        steps[history.open] = history.events(history.open)
    typed: dict[int, list[Input]] = {}
    for step, events in steps.items():
        for given in inputs_of(events):
            if given.arrive is not None and not given.arrive.request_id.startswith(TYPED):
                continue
            if step >= at_step:
                kept = {name: v for name, v in given.knobs.items() if name not in knobs}
                given = replace(given, knobs=kept)
            typed.setdefault(step, []).append(given)
    return typed


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt as tokens, and the one that ends an answer; None: nothing does but its length."""

    prompt_token_ids: list[int]
    eos_token_id: int | None = None


def reader_of(run: Any) -> Callable[[str], Read]:
    """What reads a prompt for this run: the model's tokenizer, or words where no model runs."""
    if not (isinstance(run, ScenarioRun) and run.with_model):
        words = Words(run.recorder)
        return lambda prompt: Read(words.ids(prompt))
    if (tokenize := run.tokenize) is None:

        def refuse(prompt: str) -> Read:
            raise PromptError("a model runs here, and no tokenizer is here to read a prompt for it")

        return refuse
    return lambda prompt: Read(tokenize(prompt), run.eos_token_id)


def show_texts(recorder: Recorder, texts: Mapping[int, str]) -> None:
    """These, before those that the recorder knows."""
    told = recorder.token_text
    recorder.token_text = lambda token_id, before: (
        texts.get(token_id) or (told(token_id, before) if told else f"<{token_id}>")
    )


class Words:
    """Words as tokens, where no tokenizer is: what the run has said itself keeps its ids."""

    def __init__(self, recorder: Recorder) -> None:
        self._texts: dict[int, str] = {}
        show_texts(recorder, self._texts)

    def ids(self, prompt: str) -> list[int]:
        """The same word has the same id each time, so that prefixes are hit. Raises PromptError."""
        pieces: Sequence[str] = re.findall(r"\s*\S+", prompt)
        if not pieces:
            raise PromptError("the prompt is empty; type some words")
        ids = [FIRST_WORD + zlib.crc32(piece.encode()) % 1_000_000 for piece in pieces]
        self._texts.update(zip(ids, pieces, strict=True))
        return ids
