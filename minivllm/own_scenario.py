"""A scenario of one's own from a form: a few requests as lengths, run with placeholders for tokens.

What is filled in is small and comes from anybody, so every number has a bound, and every mistake is
told with its field, all of them at once. From here on it is a scenario file's data
(``scenario_file.py``) on the real scheduler and pool (``scenario.py``): blocks, hits, waits and
preemptions are exact, only the words are missing. The way back, from a scenario to a form, is
what the presets and a file that is opened again come by. No counterpart in vLLM. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from minivllm.errors import ConfigError, MiniVLLMError, ScenarioError
from minivllm.scenario import ScenarioRun, start
from minivllm.scenario_file import Scenario, scenario_from, scenario_from_toml

MOST_REQUESTS = 32
MOST_STEPS = 3_000
"""Steps that a run may take; the longest that the fields allow one after another take more."""
MOST_BLOCKS = 4_096
BOUNDS = {
    "arrives": (1, 1_000),
    "prefix": (0, 512),
    "own": (0, 1_024),
    "outputs": (1, 256),
    "priority": (-100, 100),
}
"""Field of a row → the least and the most."""
WORDS = {
    "arrives": "arrival step",
    "prefix": "shared prefix",
    "own": "own length",
    "outputs": "outputs",
    "priority": "priority",
}
MOST_FILE_BYTES = 100_000


class Row(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One request. Lengths in tokens."""

    arrives: int = 1
    prefix: int = 0
    """The first of its prompt, which are the same in every row, as far as they go."""
    own: int = 8
    outputs: int = 4
    priority: int = 0


class Form(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    request: list[Row]
    engine: dict[str, bool | int | float | str] = {}
    """Knobs by name; one that is missing is as the engine has it."""


class OwnScenarioError(MiniVLLMError, ValueError):
    """A form that cannot be run. ``fields``: field (``request.2.own``, ``block_size``, or empty for
    all of it) → what was given and what is allowed."""

    exit_status = 2

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)
        super().__init__("; ".join(self.fields.values()))


def read_form(given: Any) -> Form:
    """What a page sends, checked field by field. Raises OwnScenarioError."""
    if not isinstance(given, dict) or not isinstance(given.get("request"), list):
        raise OwnScenarioError({"": "a form has requests (a list of rows) and engine (its knobs)"})
    rows, wrong = given["request"], {}
    if not 1 <= len(rows) <= MOST_REQUESTS:
        raise OwnScenarioError({"": f"{len(rows)} requests; allowed: 1 to {MOST_REQUESTS}"})
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not row.keys() <= BOUNDS.keys():
            raise OwnScenarioError({"": f"row {number}: a row has {', '.join(BOUNDS)}"})
        for name, (least, most) in BOUNDS.items():
            value = row.get(name, getattr(Row(), name))
            if type(value) is not int or not least <= value <= most:
                wrong[f"request.{number}.{name}"] = (
                    f"row {number}, {WORDS[name]}: got {_short(value)}; allowed: {least} to {most}"
                )
        if not wrong and not row.get("prefix", 0) + row.get("own", Row().own):
            wrong[f"request.{number}.own"] = (
                f"row {number}, own length: got 0, and no shared prefix; a prompt has 1 or more"
            )
    engine = given.get("engine", {})
    if not isinstance(engine, dict) or not all(
        isinstance(v, bool | int | float | str) for v in engine.values()
    ):
        wrong[""] = "engine: knobs by name, each with a number, a word, true or false"
    elif type(blocks := engine.get("num_kv_blocks")) is int and blocks > MOST_BLOCKS:
        wrong["num_kv_blocks"] = f"num_kv_blocks: got {blocks}; allowed: up to {MOST_BLOCKS} here"
    if wrong:
        raise OwnScenarioError(wrong)
    return msgspec.convert(given, Form)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def id_of(form: Form) -> str:
    """The same for the same form, on every machine: so an address that has the form in it leads to
    the same run wherever it is opened."""
    canonical = msgspec.json.encode([form.request, sorted(form.engine.items())])
    return f"own-{hashlib.sha256(canonical).hexdigest()[:8]}"


def run_form(form: Form) -> ScenarioRun:
    """Run it to its end. Raises OwnScenarioError."""
    try:
        run = start(scenario_of(form))
        _check_lengths(form, run.config.model.max_model_len)
        return run.run(MOST_STEPS)
    except (ConfigError, ScenarioError) as error:
        # A wrong knob of a scenario is told with its place in a file; here there is none.
        knob = error if isinstance(error, ConfigError) else error.__cause__
        if isinstance(knob, ConfigError):
            raise OwnScenarioError({knob.field.rpartition(".")[2]: str(knob)}) from error
        raise OwnScenarioError({"": str(error)}) from error


def _check_lengths(form: Form, longest: int | None) -> None:
    wrong = {}
    for number, row in enumerate(form.request, start=1):
        tokens = row.prefix + row.own
        if longest is not None and tokens + row.outputs > longest:
            wrong[f"request.{number}.outputs"] = (
                f"row {number}: {tokens} prompt tokens and {row.outputs} outputs; max_model_len "
                f"allows {longest} together"
            )
    if wrong:
        raise OwnScenarioError(wrong)


def scenario_of(form: Form) -> Scenario:
    tables = [
        {
            "arrives": row.arrives,
            "prompt_tokens": row.prefix + row.own,
            "shared_prefix": row.prefix,
            "output_tokens": row.outputs,
            "priority": row.priority,
        }
        for row in form.request
    ]
    data = {"name": id_of(form), "engine": dict(form.engine), "request": tables}
    return scenario_from(data, "the form")


# --- from a scenario to a form -----------------------------------------------------------------


def form_of(scenario: Scenario) -> Form:
    """Its lengths as rows. Raises OwnScenarioError for what a row cannot say."""
    prompts = [r.prompt_token_ids or r.stand_in_ids for r in scenario.request]
    if len(prompts) > MOST_REQUESTS:
        raise OwnScenarioError(
            {"": f"{scenario.name} has {len(prompts)} requests; a form has up to {MOST_REQUESTS}"}
        )
    if not all(prompts):
        raise OwnScenarioError(
            {
                "": f"{scenario.name} has prompts as text only: how long they are, the model's "
                "tokenizer knows"
            }
        )
    rows = [
        {
            "arrives": request.arrives,
            "prefix": shared,
            "own": len(prompt) - shared,
            "outputs": request.output_tokens,
            "priority": request.priority,
        }
        for request, prompt, shared in zip(scenario.request, prompts, _shared(prompts), strict=True)
    ]
    return read_form({"request": rows, "engine": scenario.engine})


def _shared(prompts: list[list[int]]) -> list[int]:
    """Of each prompt, how many of its first tokens are those of the family with most members."""
    families: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        families.setdefault(prompt[0], []).append(i)
    family = max(families.values(), key=len)
    shared = [0] * len(prompts)
    for i in family:
        others = [_common(prompts[i], prompts[j]) for j in family if j != i]
        shared[i] = max(others, default=0)
    return shared


def _common(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def form_of_file(text: str) -> Form:
    """A ``.toml`` scenario as a form. Raises OwnScenarioError, and ScenarioError with the line."""
    if len(text) > MOST_FILE_BYTES:
        raise OwnScenarioError(
            {"": f"the file has {len(text)} characters; allowed: {MOST_FILE_BYTES}"}
        )
    return form_of(scenario_from_toml(text, Path("the file")))
