"""Lesson 0: predict three decisions, then watch one request take its way through the engine.

Runs the real scheduler and block pool on the scenario tiny-pressure, with given tokens in the
model's place. With ``--model`` one real request takes the same way, through ``LLM``. Everything
that is printed comes from the events that the engine wrote.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minivllm.errors import MiniVLLMError
from minivllm.terminal.history import History
from minivllm.terminal.runs import RecordedRun, open_run
from minivllm.terminal.text import clean
from minivllm.trace.events import Event
from minivllm.trace.file import read_trace
from minivllm.trace.why import why_request
from minivllm.trace.words import count

HERO = "r4"
SCENARIO = "tiny-pressure"


# --- predict -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    words: str
    step: int
    kind: str
    """The event that answers it …"""
    req: str | None
    """… of this request, where it is known before."""
    read: Callable[[Event], str]
    """The answer, out of that event."""

    def answer(self, history: History) -> Event:
        events = history.steps[self.step]
        return next(
            e for e in events if e.kind == self.kind and (self.req is None or e.req == self.req)
        )


QUESTIONS = (
    Question(
        "r1 has run 12 tokens of its prompt. r2 arrives with 11 tokens, of which the first 8 are\n"
        "   the same as r1's. How many tokens does r2 run in step 2?",
        2,
        "sched.grant",
        "r2",
        lambda event: str(event.data.n),
    ),
    Question(
        "Before step 8 all 15 blocks are in use, and r3 needs one more. r1, r3 and r4 run. Who\n"
        "   gives way?",
        8,
        "sched.victim",
        None,
        lambda event: str(event.req),
    ),
    Question(
        "r4 was preempted and comes back in step 12 with 11 known tokens; one of its old blocks\n"
        "   of 4 is still cached. How many tokens does it run in step 12?",
        12,
        "sched.grant",
        HERO,
        lambda event: str(event.data.n),
    ),
)


def predict(given: list[str] | None) -> list[str]:
    """The reader's answers: as given, or asked for; empty where there is nobody to ask."""
    answers: list[str] = []
    for number, question in enumerate(QUESTIONS, start=1):
        print(f"{number}. {question.words}")
        if given is not None:
            answers.append(given[number - 1] if number <= len(given) else "")
            print(f"   > {answers[-1]}")
        elif sys.stdin.isatty():
            answers.append(input("   > ").strip())
        print()
    return answers


def grade(history: History, answers: list[str]) -> int:
    """What the events say, beside what was predicted. Returns how many were right."""
    right = 0
    for number, question in enumerate(QUESTIONS):
        event = question.answer(history)
        truth = question.read(event)
        said = answers[number] if number < len(answers) else ""
        verdict = f"{truth}."
        if said:
            right += said.lower() == truth
            verdict = f"Right: {truth}." if said.lower() == truth else f"{truth}, not {said}."
        print(f"{number + 1}. {verdict}")
        subject = str(event.req)
        state = history.state_after(question.step)
        for sentence in why_request(history, state, question.step, subject).why:
            print(f"   {sentence}")
    return right


# --- run and explain ---------------------------------------------------------------------------

Tell = Callable[[Event], str]

# The hops of README.md that the core takes, by the event that tells each.
HOPS: dict[str, tuple[str, Tell]] = {
    "req.tokenize": (
        "3 tokenise",
        lambda e: f"{e.data.characters} characters become {e.data.tokens} tokens",
    ),
    "req.arrive": (
        "5 the border",
        lambda e: f"{e.data.request_id} is {e.req} from here on: {len(e.data.texts)} token ids",
    ),
    "req.enqueue": ("6 waiting", lambda e: f"stands at place {e.data.position + 1}"),
    "sched.skip": (
        "7 scheduler",
        lambda e: f"not now: {e.data.reason.value} (need {e.data.need}, have {e.data.have})",
    ),
    "sched.victim": (
        "7 scheduler",
        lambda e: f"gives way to {e.data.for_req}, loses {e.data.tokens_lost} computed tokens",
    ),
    "kv.hit": ("8 prefix cache", lambda e: f"{e.data.tokens} tokens are in {e.data.blocks}"),
    "kv.miss": ("8 prefix cache", lambda e: f"nothing further: {e.data.reason.value}"),
    "kv.touch": ("9 block table", lambda e: f"shares block {e.data.block}"),
    "kv.alloc": ("9 block table", lambda e: f"takes {e.data.blocks} from the free queue"),
    "sched.grant": (
        "7 scheduler",
        lambda e: f"runs {e.data.n} from position {e.data.start} ({e.data.why.value})",
    ),
    "batch.compose": (
        "10 flat batch",
        lambda e: (
            f"{count(e.data.tokens, 'token')} of {count(len(e.data.rows), 'request')} in one list"
        ),
    ),
    "exec.forward": ("11 forward", lambda e: f"{count(e.data.tokens, 'token')}, all layers"),
    "sample": ("12 sample", lambda e: f"{count(len(e.data.rows), 'next token')}"),
    "req.token": ("13 update", lambda e: f"says {e.data.text!r}"),
    "kv.free": ("13 update", lambda e: f"gives back {e.data.blocks}"),
    "req.finish": ("13 update", lambda e: f"finishes: {e.data.reason}"),
}
OF_THE_STEP = ("batch.compose", "exec.forward", "sample")


def walk(history: History, req: str, all_steps: bool) -> None:
    """The request's way, an event a line; steps of plain decoding are only counted."""
    plain = 0
    for step in sorted(history.steps):
        mine = [e for e in history.steps[step] if e.req == req and e.kind in HOPS]
        ran = any(e.kind == "sched.grant" for e in mine)
        shown = [e for e in history.steps[step] if e in mine or (ran and e.kind in OF_THE_STEP)]
        kinds = {e.kind for e in mine}
        if not all_steps and kinds == {"sched.grant", "req.token"}:
            plain += 1
            continue
        if plain:
            print(f"{'':<10}… {count(plain, 'more step')} like this: one token in, one token out")
            plain = 0
        for i, event in enumerate(shown):
            hop, tell = HOPS[event.kind]
            source = history.sources.get(event.src)
            where = f"{source.file}:{source.line}" if source else ""
            head = f"step {step:>3}  " if i == 0 else " " * 10
            print(f"{head}{hop:<15} {clean(tell(event)) + _took(event, history):<58} {where}")


def _took(event: Event, history: History) -> str:
    """The time of the forward pass; a scenario's tokens are given, and no model runs."""
    if event.kind != "exec.forward":
        return ""
    return " (no model here)" if history.header.fidelity == "given" else f", {_ms(event.data.ns)}"


def run_model(model: str) -> None:
    """One request through ``LLM``: the same way, with a real model. Raises MiniVLLMError."""
    from minivllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run.trace.jsonl"
        params = SamplingParams(temperature=0.0, max_tokens=8)
        with LLM(model=model, trace=str(path), num_kv_blocks=32) as llm:
            output = llm.generate("One, two, three, four,", params, use_tqdm=False)[0]
        for event in read_trace(path).events:
            if event.kind == "req.tokenize":
                hop, tell = HOPS[event.kind]
                print(f"{'before':<10}{hop:<15} {tell(event)} in {_ms(event.data.ns)}")
        walk(RecordedRun(path).history, "r1", all_steps=False)
    print(f"{'after':<10}{'14 detokenise':<15} {output.outputs[0].text!r}")


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.2f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--answers", help='your three predictions, as in "5 r1 8"')
    parser.add_argument("--model", action="store_true", help="also run a request on the model")
    given = parser.parse_args()

    print("First predict.\n")
    answers = predict(given.answers.split() if given.answers is not None else None)
    run = open_run(SCENARIO, {})
    while not run.history.ended:
        run.advance()

    print("Now it has run. What the events say:\n")
    right = grade(run.history, answers)
    if answers:
        print(f"\n{right} of {len(QUESTIONS)} predicted.")
    print(f"\nThe way of {HERO}, hop by hop (README.md numbers them):\n")
    walk(run.history, HERO, all_steps=False)
    if given.model:
        print("\nOne request on the model, through LLM (so without HTTP and SSE):\n")
        try:
            run_model("smollm2-135m")
        except MiniVLLMError as error:
            print(f"the model did not run: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
