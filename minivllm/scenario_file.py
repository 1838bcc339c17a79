"""Scenario files: which requests arrive when, how long they are, and the knobs. TOML, or JSONL.

A workload is nothing else: many requests, written as a few templates.

    name = "…"
    title = "…"
    like = "tiny-pressure"      what else it says is as in this shipped one
    [engine]                    any name that ``make_config`` takes
    [poisson]                   for requests without ``arrives``: steps drawn, always the same
    rate = 0.5                  requests a step, on average
    seed = 1
    [[request]]                 they are called r1, r2, … in order of arrival
    arrives = 1                 step
    prompt = "…"                and/or prompt_token_ids, with prompt_texts
    prompt_tokens = 40          so many made-up ids, where there is no text or no model to read it
    shared_prefix = 16          the first of them are those of every request that says so
    output_tokens = 10          exactly so many
    output_token_ids = […]      what it says when no model runs, with output_texts
    max_tokens = 64             the caller's limit, if it is more than output_tokens
    priority = 0
    count = 8                   so many of these; then lengths may be lists, gone through in turn
    every = 2                   steps from one of them to the next; 0: all at once

As JSONL (``.jsonl``): one such request a line; before them, if need be, a line with the rest.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from minivllm.errors import ScenarioError
from minivllm.scenario_text import (
    json_data,
    knob_lines,
    read_text,
    request_lines,
    toml_data,
)

SCENARIO_DIR = Path(__file__).parent / "scenarios"
SUFFIXES = (".toml", ".jsonl")
MAX_REQUESTS = 100_000
MAX_PROMPT_TOKENS = 10_000_000
"""Of a whole file: a slip of the pen must not fill the memory."""
MAX_ARRIVES = 1_000_000
"""The last step at which a request may arrive: nobody waits for a later one."""
MADE_UP_IDS = (1_000, 30_000)
"""Made-up ids are drawn from here: no special tokens, and every usual vocabulary has them."""

T = TypeVar("T")


class ScenarioRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One request, as it is run. The fields are those of the file, and:"""

    arrives: int
    output_tokens: int
    prompt: str | None = None
    prompt_token_ids: list[int] = []
    prompt_texts: list[str] = []
    output_token_ids: list[int] = []
    output_texts: list[str] = []
    priority: int = 0
    max_tokens: int | None = None
    stand_in_ids: list[int] = []
    """Its prompt where no model reads the text."""

    @property
    def needs_model(self) -> bool:
        return not self.prompt_token_ids and not self.stand_in_ids


class RequestTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One ``[[request]]`` table, or one line of a JSONL file."""

    output_tokens: int | list[int]
    arrives: int | None = None
    prompt: str | None = None
    prompt_tokens: int | list[int] | None = None
    shared_prefix: int = 0
    prompt_token_ids: list[int] = []
    prompt_texts: list[str] = []
    output_token_ids: list[int] = []
    output_texts: list[str] = []
    max_tokens: int | None = None
    priority: int = 0
    count: int = 1
    every: int = 0


class Poisson(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The ``[poisson]`` table."""

    rate: float
    seed: int = 0


class _Top(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """All of a file but its requests: what the first line of a JSONL file may say."""

    name: str = ""
    title: str = ""
    engine: dict[str, Any] = {}
    poisson: Poisson | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    title: str = ""
    engine: dict[str, Any] = {}
    poisson: Poisson | None = None
    request: list[RequestTable]


class Scenario(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The requests one by one, in order of arrival; within a step, in the order of the file."""

    name: str
    title: str = ""
    engine: dict[str, Any] = {}
    request: list[ScenarioRequest]
    places: dict[str, str] = {}
    """Knob of ``engine`` → the file and the line where it stands."""

    def __post_init__(self) -> None:
        self.request.sort(key=lambda r: r.arrives)


def load_scenario(name_or_path: str) -> Scenario:
    """A shipped scenario by name, or one from a file. Raises ScenarioError."""
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        path = _shipped().get(name_or_path, path)
        if path.suffix not in SUFFIXES:
            shipped = ", ".join(shipped_scenarios())
            raise ScenarioError(
                f"no scenario {name_or_path!r}; shipped: {shipped}; or a .toml or .jsonl file"
            )
    text = read_text(path)
    if path.suffix == ".jsonl":
        top, tables, head = _read_jsonl(path, text)
        top.name = top.name or path.stem
        where = [f"{path}, line {line}" for line, _ in tables]
        return _expand(
            top, [t for _, t in tables], where, str(path), dict.fromkeys(top.engine, head)
        )
    return scenario_from_toml(text, path)


def scenario_from_toml(text: str, path: Path) -> Scenario:
    """``path`` names it in messages. Raises ScenarioError."""
    data = _completed(toml_data(path, text), path)
    requests = data.get("request")
    lines = request_lines(text, len(requests) if isinstance(requests, list) else 0)
    file = _convert(data, _File, str(path), lines)
    top = _Top(name=file.name, title=file.title, engine=file.engine, poisson=file.poisson)
    where = [
        f"{path}, request {number}" if line is None else f"{path}, line {line}, request {number}"
        for number, line in enumerate(lines, start=1)
    ]
    return _expand(top, file.request, where, str(path), knob_lines(text))


def scenario_from(data: dict[str, Any], what: str) -> Scenario:
    """A scenario from plain data, such as a file's; ``what`` names it. Raises ScenarioError."""
    file = _convert(data, _File, what)
    top = _Top(name=file.name, title=file.title, engine=file.engine, poisson=file.poisson)
    where = [f"{what}, request {number}" for number, _ in enumerate(file.request, start=1)]
    return _expand(top, file.request, where, what, {})


def _completed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """With what the scenario says that this one is ``like``; what stands here wins."""
    name = data.pop("like", None)
    if name is None:
        return data
    base = _shipped().get(name) if isinstance(name, str) else None
    if base is None:
        shipped = ", ".join(shipped_scenarios())
        raise ScenarioError(f"{path}: like: got {name!r}; allowed: {shipped}")
    under = toml_data(base, read_text(base))
    engine = data.get("engine", {})
    if isinstance(engine, dict):
        data["engine"] = {**under.get("engine", {}), **engine}
    return {**under, **data}


def shipped_scenarios() -> list[str]:
    """The names of those that come with the package."""
    return list(_shipped())


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(SCENARIO_DIR.iterdir()) if path.suffix in SUFFIXES}


# --- reading -----------------------------------------------------------------------------------


def _read_jsonl(path: Path, text: str) -> tuple[_Top, list[tuple[int, RequestTable]], int]:
    """What the head line says, the requests with their lines, and the head's own line (or 0)."""
    top, head = _Top(), 0
    tables: list[tuple[int, RequestTable]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        data = json_data(line, where)
        if not tables and isinstance(data, dict) and "output_tokens" not in data:
            if data.keys() & set(_Top.__struct_fields__):
                if head:
                    raise ScenarioError(
                        f"{where}: no request, and line {head} says name, title, engine and "
                        "poisson already; put all of these there"
                    )
                top, head = _convert(data, _Top, where), number
                continue
        tables.append((number, _convert(data, RequestTable, where)))
    return top, tables, head


def _convert(data: Any, kind: type[T], where: str, lines: Sequence[int | None] = ()) -> T:
    """``lines``: of the requests, where they are a part of ``data``."""
    try:
        return msgspec.convert(data, kind)
    except RecursionError as error:
        raise ScenarioError(f"{where}: nested too deep") from error
    except msgspec.ValidationError as error:
        message = str(error)
        if found := re.search(r" - at `\$\.request\[(\d+)\]\.?(.*)`", message):
            index, field = int(found[1]), found[2]
            message = message[: found.start()] + f" - in request {index + 1}"
            message += f", field `{field}`" if field else ""
            if lines and lines[index] is not None:
                where += f", line {lines[index]}"
        if "unknown field" in message:
            known: Any = RequestTable if " in request" in message else kind
            fields = known.__struct_fields__
            message += f"; fields that there are: {', '.join(fields)}"
        raise ScenarioError(f"{where}: {message}") from error


# --- from tables to requests -------------------------------------------------------------------


def _expand(
    top: _Top, tables: list[RequestTable], where: list[str], file: str, knobs: dict[str, int]
) -> Scenario:
    """Every table as its requests. ``where`` names each table in messages, ``knobs`` has the lines
    of the engine's."""
    if not tables:
        raise ScenarioError(f"{file}: no request; a workload needs one a line, or a [[request]]")
    places = {n: f"{file}, line {knobs[n]}" if knobs.get(n) else file for n in top.engine}
    for name, value in top.engine.items():
        if isinstance(value, (list, dict)):
            raise ScenarioError(
                f"{places[name]}: [engine] {name} is a list or a table; a number, a text, true or "
                "false is allowed"
            )
    for table, place in zip(tables, where, strict=True):
        _check(table, place, top.poisson)
    if sum(table.count for table in tables) > MAX_REQUESTS:
        raise ScenarioError(f"{file}: more than {MAX_REQUESTS} requests; lower a count")
    if sum(table.count * _most(table.prompt_tokens) for table in tables) > MAX_PROMPT_TOKENS:
        raise ScenarioError(f"{file}: more than {MAX_PROMPT_TOKENS} prompt tokens; lower some")
    if top.poisson is not None and not 0.001 <= top.poisson.rate <= 1_000:
        raise ScenarioError(
            f"{file}: [poisson] rate = {top.poisson.rate}; requests a step, 0.001 to 1000"
        )
    drawn = iter(()) if top.poisson is None else _poisson_steps(top.poisson)
    prefix = made_up_ids("shared prefix", max((t.shared_prefix for t in tables), default=0))
    requests: list[ScenarioRequest] = []
    for table, place in zip(tables, where, strict=True):
        for i in range(table.count):
            begins, arrives = len(requests) + 1, table.arrives
            made_up: list[int] = []
            if table.prompt_tokens is not None:
                own = _turn(table.prompt_tokens, i) - table.shared_prefix
                made_up = prefix[: table.shared_prefix] + made_up_ids(f"request {begins}", own)
            request = ScenarioRequest(
                arrives=next(drawn) if arrives is None else arrives + i * table.every,
                output_tokens=_turn(table.output_tokens, i),
                prompt=table.prompt,
                prompt_token_ids=table.prompt_token_ids or ([] if table.prompt else made_up),
                prompt_texts=table.prompt_texts,
                output_token_ids=table.output_token_ids,
                output_texts=table.output_texts,
                priority=table.priority,
                max_tokens=table.max_tokens,
                stand_in_ids=made_up if table.prompt else [],
            )
            if request.arrives > MAX_ARRIVES:  # drawn
                raise ScenarioError(
                    f"{place}: comes in step {request.arrives}; at the latest in step "
                    f"{MAX_ARRIVES}: raise the rate of [poisson]"
                )
            requests.append(request)
    return Scenario(
        name=top.name, title=top.title, engine=top.engine, request=requests, places=places
    )


def made_up_ids(what: str, n: int) -> list[int]:
    """``n`` token ids that are always the same for ``what``, and for nothing else."""
    rng, (low, high) = random.Random(what), MADE_UP_IDS
    return [low + int(rng.random() * (high - low)) for _ in range(n)]


def _poisson_steps(poisson: Poisson) -> Iterator[int]:
    """The steps of arrivals whose gaps are exponential: a Poisson process of ``rate`` a step."""
    rng, clock = random.Random(poisson.seed), 1.0
    while True:
        yield int(clock)
        clock -= math.log(1.0 - rng.random()) / poisson.rate


def _check(table: RequestTable, where: str, poisson: Poisson | None) -> None:
    """Raises ScenarioError where a table does not hold together."""

    def wrong(message: str) -> ScenarioError:
        return ScenarioError(f"{where}: {message}")

    if table.arrives is None and poisson is None:
        raise wrong(
            "needs arrives, the step at which it comes (or the file a [poisson] table, to draw it)"
        )
    if table.arrives is not None and table.arrives < 1:
        raise wrong(f"arrives = {table.arrives}; steps count from 1")
    for name, value, least in (("count", table.count, 1), ("every", table.every, 0)):
        if value < least:
            raise wrong(f"{name} = {value}; at least {least}")
    if table.arrives is not None and table.arrives + (table.count - 1) * table.every > MAX_ARRIVES:
        spread = f", count = {table.count}, every = {table.every}" if table.every else ""
        raise wrong(f"arrives = {table.arrives}{spread}; at the latest in step {MAX_ARRIVES}")
    if table.every and table.arrives is None:
        raise wrong(f"every = {table.every} needs arrives; [poisson] draws the steps otherwise")
    for name in ("output_tokens", "prompt_tokens"):
        lengths = getattr(table, name)
        if lengths == []:
            raise wrong(f"{name} is an empty list; give a number, or one for each of count")
        for length in _all(lengths):
            if length < 1:
                raise wrong(f"{name} = {length}; at least 1")
        if isinstance(lengths, list) and len(lengths) > table.count:
            raise wrong(
                f"{len(lengths)} {name} for count = {table.count}; raise count or list fewer"
            )
    if table.max_tokens is not None and table.max_tokens < max(_all(table.output_tokens)):
        raise wrong(
            f"max_tokens = {table.max_tokens} is less than output_tokens; it is the caller's "
            "limit, output_tokens what will be said"
        )
    _check_prompt(table, wrong)
    for texts, ids in (("prompt_texts", "prompt_token_ids"), ("output_texts", "output_token_ids")):
        n_texts, n_ids = len(getattr(table, texts)), len(getattr(table, ids))
        if n_texts not in (0, n_ids):
            raise wrong(f"{n_texts} {texts} for {n_ids} {ids}")
    for token_id in table.prompt_token_ids + table.output_token_ids:
        if not 0 <= token_id < 2**31:
            raise wrong(f"{token_id} is no token id")
    n_out = len(table.output_token_ids)
    if n_out not in (0, table.output_tokens):
        raise wrong(f"{n_out} output_token_ids for output_tokens = {table.output_tokens}")


def _check_prompt(table: RequestTable, wrong: Any) -> None:
    if not table.prompt and not table.prompt_token_ids and table.prompt_tokens is None:
        raise wrong("needs a prompt or prompt_token_ids, or prompt_tokens, their number")
    if table.prompt_token_ids and table.prompt_tokens is not None:
        raise wrong("prompt_token_ids and prompt_tokens: give the ids, or their number")
    if table.shared_prefix < 0:
        raise wrong(f"shared_prefix = {table.shared_prefix}; at least 0")
    if table.shared_prefix and (
        table.prompt_tokens is None or table.shared_prefix > min(_all(table.prompt_tokens))
    ):
        raise wrong(
            f"shared_prefix = {table.shared_prefix} are the first of prompt_tokens, which must be "
            f"as many or more; it is {table.prompt_tokens}"
        )


def _all(lengths: int | list[int] | None) -> list[int]:
    return lengths if isinstance(lengths, list) else [] if lengths is None else [lengths]


def _most(lengths: int | list[int] | None) -> int:
    return max(_all(lengths), default=0)


def _turn(lengths: int | list[int], i: int) -> int:
    return lengths[i % len(lengths)] if isinstance(lengths, list) else lengths
