"""The real compiler over a small vocabulary, and a model that says any token that it may."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import MissingExtraError, StructuredOutputError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.structured_output.backend_xgrammar import XGrammarBackend
from minivllm.structured_output.manager import GrammarCheck, StructuredOutputManager
from minivllm.structured_output.params import StructuredOutputsParams
from tests.conftest import RunPython
from tests.core.builders import Engine
from tests.serve.fakes import EOS, FakeTokenizer

TOKENIZER = FakeTokenizer()


def allowed(words: bytes) -> set[int]:
    bits = int.from_bytes(words, "little")
    return {i for i in range(TOKENIZER.vocab_size) if bits >> i & 1}


class AnyAllowed(ScriptedExecutor):
    """Draws from what the mask allows; the noise belongs to (request, index)."""

    def __init__(self, config: EngineConfig, _: Any) -> None:
        super().__init__(config, self._draw)
        self._masks: dict[str, bytes] = {}

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        self._masks = scheduler_output.grammar_bitmask
        return super().execute_model(scheduler_output)

    def _draw(self, req_id: str, index: int) -> int:
        if req_id not in self._masks:
            return 97
        choices = sorted(allowed(self._masks[req_id]))
        return random.Random(f"{req_id} {index}").choice(choices or [97])


def engine(**knobs: Any) -> Engine:
    return Engine(executor=AnyAllowed, grammars=StructuredOutputManager.of(TOKENIZER), **knobs)


def text_of(one: Engine, request_id: str) -> str:
    said = one.said(request_id)
    assert said[-1] == EOS and EOS not in said[:-1]
    return TOKENIZER.decode(said)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "code": {"type": "string", "pattern": r"^.[^a]\S$"},
    },
    "required": ["name", "age"],
}
FORMS: dict[str, StructuredOutputsParams] = {
    "json": StructuredOutputsParams(json=PERSON, disable_any_whitespace=True),
    "regex": StructuredOutputsParams(regex=r"[a-c]{1,4}-\d{2}"),
    "choice": StructuredOutputsParams(choice=["yes", 'n"o', "né\n", "日本"]),
    "grammar": StructuredOutputsParams(grammar='root ::= "<" word ">"\nword ::= [xyz] [xyz]?'),
}


def check(kind: str, text: str) -> None:
    if kind == "json":
        jsonschema.validate(json.loads(text), PERSON)
    elif kind == "regex":
        assert re.fullmatch(r"[a-c]{1,4}-\d{2}", text)
    elif kind == "choice":
        assert text in ("yes", 'n"o', "né\n", "日本")
    else:
        assert re.fullmatch("<[xyz]{1,2}>", text)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"max_num_batched_tokens": 6},
        {"num_kv_blocks": 60, "max_num_seqs": 3, "max_model_len": 200},
        {"num_kv_blocks": 30, "max_model_len": 100},
        {"speculative_ngram": 3},
        {"enable_prefix_caching": False},
    ],
)
def test_whatever_is_drawn_under_the_mask_keeps_to_the_form(knobs: dict[str, Any]) -> None:
    """Many at once, with and without grammars, cut into chunks, preempted and resumed."""
    one = engine(**{"num_kv_blocks": 200, "max_model_len": 200, "max_num_seqs": 16, **knobs})
    for i in range(5):
        for kind, form in FORMS.items():
            fields = {"structured_outputs": form, "max_tokens": 80, "eos_token_id": EOS}
            one.add(f"{kind}-{i}", 5 + i, **fields)
        one.add(f"plain-{i}", 5, max_tokens=12)
    one.run()
    for i in range(5):
        for kind in FORMS:
            check(kind, text_of(one, f"{kind}-{i}"))
        assert len(one.said(f"plain-{i}")) == 12
    if knobs.get("num_kv_blocks") == 30:
        assert one.events("req.preempt")
    one.assert_nothing_leaked()


S = {"type": "string", "maxLength": 4}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": "array", "items": {}, "minItems": 1, "maxItems": 2},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": "number", "minimum": -2, "exclusiveMaximum": 2.5},
    {"type": "integer", "exclusiveMinimum": 3, "maximum": 12},
    {"type": "boolean"},
    {"enum": ["a", 1, None, {"b": [1]}]},
    {"const": {"a": 'x"y'}},
    {"anyOf": [{"type": "integer", "minimum": 7, "maximum": 9}, {"type": "null"}]},
    {"oneOf": [{"const": "a"}, {"const": "b"}]},
    {"allOf": [{"type": "string", "maxLength": 2}]},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
    {"type": "string", "pattern": "^[^x]{1,3}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "prefixItems": [S, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "array", "items": {"$ref": "#/$defs/x"}, "maxItems": 3, "$defs": {"x": S}},
    {"type": "object", "properties": {"a": S, "b": S}, "required": ["b"]},
    {"type": "object", "properties": {"a": S, "b": S}, "minProperties": 1, "maxProperties": 1},
    {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2},
    {"type": "object", "properties": {"a": S}, "additionalProperties": {"type": "boolean"}},
    {"type": "object", "patternProperties": {"^a[0-9]$": {"type": "null"}}, "maxProperties": 2},
    {"type": "object", "propertyNames": {"pattern": "^[xy]$"}, "maxProperties": 2},
    {"type": "object", "properties": {'q"': S, "b\\": S, "é\n": S}, "required": ['q"']},
    {"properties": {"n": {"$ref": "#"}, "v": {"type": "null"}}, "required": ["v"]},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_a_schema_that_is_taken_is_kept_to(schema: dict[str, Any]) -> None:
    """The compiler passes over what it does not know: whatever limits.py lets through, it keeps."""
    backend = XGrammarBackend(TOKENIZER)
    compiled = backend.compile(StructuredOutputsParams(json=schema).spec())
    checker = jsonschema.Draft202012Validator(schema)  # formats are a hint: no check
    ended = 0
    for seed in range(20):
        draw, matcher, said = random.Random(seed), backend.matcher(compiled), list[int]()
        while len(said) < 300 and EOS not in said:
            choices = sorted(allowed(matcher.mask().words))
            choices = [i for i in choices if not 128 <= i < 256]  # no half characters
            closing = [i for i in choices if i == EOS or chr(i) in '"]}']
            said.append(draw.choice(closing if closing and draw.random() < 0.4 else choices))
            assert matcher.accept(said[-1])
        if EOS in said:
            ended += 1
            checker.validate(json.loads(TOKENIZER.decode(said)))
    assert ended >= 10


@pytest.mark.parametrize(
    "fields",
    [
        *({"regex": regex} for regex in (r"a^b", r"(^a$)", r"^a$|^b$", r"\Aa\Z", r"[\1]", r"\h")),
        {"regex": re.escape("a&b ~#!-%,:;<=>@_`\t\n") + r"[\,\&]\,\_"},
        {"regex": r"^[$^](\^|\$|\\)[a\]^]$"},
        {"json": {"type": "string", "pattern": "a$|b"}},
        {"json": {"type": "object", "patternProperties": {r"\Aa": {}}}},
        {"json": {"type": "string", "format": "email", "minLength": 3}},
        {"json": {"type": "integer", "multipleOf": 2}},
    ],
    ids=str,
)
def test_the_library_has_nothing_to_warn_of(
    fields: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its warnings go to the server's log, where no caller sees that a part was passed over: such
    a form is refused, or put so that there is nothing to pass over."""
    try:
        form = StructuredOutputsParams(**fields)
    except StructuredOutputError:
        return
    XGrammarBackend(TOKENIZER).compile(form.spec())
    assert capfd.readouterr().err == ""


def test_a_text_that_python_has_escaped_is_followed() -> None:
    backend, text = XGrammarBackend(TOKENIZER), "a&b ~#!-%,:;<=>@_`^${1,2}\n"
    form = StructuredOutputsParams(regex=re.escape(text))
    matcher = backend.matcher(backend.compile(form.spec()))
    assert all(matcher.accept(ord(c)) for c in text) and matcher.accept(EOS)


def test_a_token_in_a_json_string_is_never_a_special_one() -> None:
    """Their texts are fine inside a string, so a matcher of bytes would let them pass."""
    backend = XGrammarBackend(TOKENIZER)
    form = StructuredOutputsParams(json={"type": "string"})
    matcher = backend.matcher(backend.compile(form.spec()))
    assert matcher.accept(ord('"'))
    inside = allowed(matcher.mask().words)
    assert ord("<") in inside and TOKENIZER.encode("Hello")[0] in inside
    assert not inside & TOKENIZER.all_special_ids
    for special in TOKENIZER.all_special_ids - {EOS}:
        assert not matcher.accept(special)


def test_eos_is_allowed_only_where_the_grammar_may_end() -> None:
    backend = XGrammarBackend(TOKENIZER)
    form = StructuredOutputsParams(regex="ab?")
    matcher = backend.matcher(backend.compile(form.spec()))
    assert allowed(matcher.mask().words) == {ord("a")}
    assert matcher.accept(ord("a"))
    assert allowed(matcher.mask().words) == {ord("b"), EOS}
    assert matcher.accept(ord("b"))
    mask = matcher.mask()
    assert allowed(mask.words) == {EOS} and mask.num_masked == TOKENIZER.vocab_size - 1
    assert matcher.accept(EOS) and not matcher.accept(ord("a"))


def test_what_else_ends_the_models_texts_ends_a_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """``<|eot_id|>`` beside ``<|end_of_text|>``: a chat model says the one that it has learnt."""
    other = min(TOKENIZER.all_special_ids - {EOS})
    monkeypatch.setattr(TOKENIZER, "other_eos_token_ids", [other])
    backend = XGrammarBackend(TOKENIZER)
    matcher = backend.matcher(backend.compile(StructuredOutputsParams(regex="ab?").spec()))
    assert not matcher.accept(other) and matcher.accept(ord("a"))
    assert allowed(matcher.mask().words) == {ord("b"), EOS, other}
    assert matcher.accept(other)


def test_half_a_character_at_a_time() -> None:
    backend = XGrammarBackend(TOKENIZER)
    matcher = backend.matcher(backend.compile(StructuredOutputsParams(choice=["😀"]).spec()))
    first, second = TOKENIZER.encode("😀")
    assert matcher.accept(first)
    assert second in allowed(matcher.mask().words)
    assert matcher.accept(second)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"json": {"type": "strin"}}, "strin"),
        ({"json": {"enum": []}}, "enum"),
        ({"json": {"$ref": "#/$defs/none"}}, "$defs"),
        ({"json": {"type": "integer", "minimum": 5, "maximum": 1}}, "minimum"),
        ({"regex": "(a"}, "parenthesis"),
        ({"regex": "(?=a)b"}, "Lookahead"),
        ({"regex": r"(a)\1"}, "Backreference"),
        ({"regex": "a{5,2}"}, "Lower bound"),
        ({"grammar": "root ::= foo"}, "foo"),
        ({"grammar": 'start ::= "a"'}, "root"),
        ({"grammar": "%%%"}, "%"),
    ],
)
def test_what_the_library_does_not_take_is_refused_in_its_words(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(StructuredOutputError) as caught:
        GrammarCheck(EOS)(StructuredOutputsParams(**fields))
    assert caught.value.param == f"structured_outputs.{next(iter(fields))}"
    assert words in str(caught.value)
    assert ".cc" not in str(caught.value)  # nothing of the library's own place


@pytest.mark.parametrize(
    "fields",
    [
        {"regex": r"[^\s\S]"},
        {"grammar": "root ::= root"},
        {"json": {"$ref": "#"}},
        {"json": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
    ],
    ids=str,
)
def test_a_grammar_that_no_text_can_begin_is_refused_before_it_runs(fields: dict[str, Any]) -> None:
    one = engine()
    form = StructuredOutputsParams(**fields)
    one.add("a", 5, structured_outputs=form, max_tokens=8, eos_token_id=EOS)
    one.run()
    last = one.outputs["a"][-1]
    assert (last.finish_reason, last.refused) == ("error", True)
    assert "a text can follow" in str(last.stop_reason)
    assert one.events("grammar.mask") == []


def test_a_grammar_that_ends_nowhere_is_refused_where_it_gets_stuck() -> None:
    one = engine()
    form = StructuredOutputsParams(regex=r"ab[^\s\S]")
    one.add("a", 5, structured_outputs=form, max_tokens=8, eos_token_id=EOS)
    one.add("b", 5, max_tokens=8)
    one.run()
    last = one.outputs["a"][-1]
    assert one.said("a") == [97, 98] and (last.finish_reason, last.refused) == ("error", True)
    assert "may not end either" in str(last.stop_reason)
    assert one.ended("b") == "length"
    one.assert_nothing_leaked()


@pytest.mark.parametrize("kind", FORMS)
def test_what_it_takes_passes_the_check(kind: str) -> None:
    GrammarCheck(EOS)(FORMS[kind])


def test_a_model_without_an_end_token_can_end_no_grammar() -> None:
    with pytest.raises(StructuredOutputError, match="end-of-text"):
        GrammarCheck(None)(FORMS["regex"])


def test_without_the_extra_it_is_named(python_without: RunPython) -> None:
    code = """
from minivllm.errors import MissingExtraError
from minivllm.structured_output.manager import GrammarCheck
from minivllm.structured_output.params import StructuredOutputsParams
try:
    GrammarCheck(0)(StructuredOutputsParams(regex="a"))
except MissingExtraError as error:
    print(error)
"""
    run = python_without(code, blocked=("xgrammar",))
    assert run.returncode == 0, run.stderr
    assert "minivllm[structured]" in run.stdout
    assert issubclass(MissingExtraError, ImportError)
