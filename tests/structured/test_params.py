"""What may be asked for, and what is refused before a compiler sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minivllm.errors import SamplingParamsError
from minivllm.sampling_params import SamplingParams
from minivllm.structured_output.limits import (
    MAX_CHOICES,
    MAX_NESTING,
    MAX_REGEX_CHARACTERS,
    MAX_SCHEMA_BYTES,
    nesting,
)
from minivllm.structured_output.params import StructuredOutputsParams


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


def refusal(**fields: Any) -> SamplingParamsError:
    with pytest.raises(SamplingParamsError) as caught:
        StructuredOutputsParams(**fields)
    return caught.value


def test_exactly_one_form_is_asked_for() -> None:
    assert "got none" in str(refusal())
    two = refusal(regex="a", choice=["a"])
    assert two.param == "structured_outputs" and "got regex and choice" in str(two)
    assert StructuredOutputsParams(json_object=True).kind == "json_object"


@pytest.mark.parametrize(
    "fields",
    [
        {"json": 7},
        {"json": True},
        {"json": "{"},
        {"json": "[1]"},
        {"json": {"type": object()}},
        {"json": {"minimum": float("nan"), "type": "number"}},
        {"json": {"title": "a" * MAX_SCHEMA_BYTES}},
        {"json": {"title": "\ud800"}},
        {"json": nested(MAX_NESTING + 1)},
        {"json": nested(5000)},
        {"json": json.dumps(nested(MAX_NESTING + 1))},
        {"json": "[" * 10_000},
        {"regex": ""},
        {"regex": 7},
        {"regex": "a" * (MAX_REGEX_CHARACTERS + 1)},
        {"regex": "(" * 65 + "a" + ")" * 65},
        {"regex": "\ud800"},
        {"regex": "a^b"},
        {"regex": "(a$)"},
        {"regex": r"\Aa"},
        {"regex": r"[\p]"},
        {"choice": []},
        {"choice": "yes"},
        {"choice": ["yes", ""]},
        {"choice": ["yes", 1]},
        {"choice": ["a"] * (MAX_CHOICES + 1)},
        {"grammar": "  "},
        {"grammar": "root ::= " + "(" * 65 + '"a"' + ")" * 65},
        {"grammar": "a" * 70_000},
        {"json_object": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_bad_form_is_refused_with_its_field(fields: dict[str, Any]) -> None:
    error = refusal(**fields)
    assert error.param == f"structured_outputs.{next(iter(fields))}"
    assert len(str(error)) < 300  # what was given may be 64 KB


def test_what_is_just_within_the_limits_is_taken() -> None:
    StructuredOutputsParams(json=nested(MAX_NESTING))
    StructuredOutputsParams(json=json.dumps(nested(MAX_NESTING)))
    StructuredOutputsParams(regex="(" * 64 + "a" + ")" * 64)
    StructuredOutputsParams(choice=[str(i) for i in range(MAX_CHOICES)])


@pytest.mark.parametrize(
    ("text", "deep"),
    [("a", 0), ("(a(b)(c))", 2), (r"\(\(", 0), ("[(((]", 0), (r"([\](])", 1), (r"\\(a)", 1)],
)
def test_nesting_counts_what_is_neither_escaped_nor_in_a_class(text: str, deep: int) -> None:
    assert nesting(text, "(", ")") == deep


def test_brackets_in_a_json_text_do_not_nest() -> None:
    StructuredOutputsParams(json=json.dumps({"title": "[" * 100, "type": "string"}))


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "number", "multipleOf": 3}, "multipleOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"$ref": "http://example.com/x.json"}, "$ref"),
        ({"$ref": "#name"}, "$ref"),
        ({"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": {}}}, "maxLength"),
        ({"anyOf": [{"type": "string"}], "type": "object"}, "type"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
        ({"type": "string", "pattern": "a+", "maxLength": 2}, "pattern"),
        ({"type": "string", "pattern": 'a"b'}, "escape"),
        ({"type": "string", "pattern": r"\n"}, "escape"),
        ({"type": "object", "patternProperties": {r"a\\b": {}}}, "escape"),
        ({"type": "string", "enum": ["a", "bbbb"], "minLength": 3}, "minLength"),
        ({"type": "string", "const": "a", "pattern": "b"}, "pattern"),
        ({"enum": [{}], "properties": {"a": {}}}, "properties"),
        ({"type": "string", "enum": [1, "a"]}, "value 1 is not of type string"),
        ({"type": "integer", "enum": [True]}, "value true is not of type integer"),
        ({"type": ["null", "integer"], "enum": [None, 1.5]}, "1.5 is not of type null or integer"),
        ({"type": "string", "const": 5}, "value 5 is not of type string"),
        ({"const": "a", "enum": ["b"]}, "const is not in enum"),
        ({"const": 1, "enum": [True]}, "const is not in enum"),
        ({"type": "string", "format": "date", "pattern": "^a$"}, "format together with pattern"),
        ({"type": "string", "format": "email", "minLength": 3}, "format together with minLength"),
        (
            {"type": "object", "properties": {"ab": {}}, "patternProperties": {"^a": {}}},
            "patternProperties together with properties",
        ),
        (
            {"type": "object", "patternProperties": {"^a.?$": {}, "^.?a$": {}}},
            "more than one pattern",
        ),
        (
            {"type": "object", "properties": {"a": {}}, "propertyNames": {"pattern": "b"}},
            "propertyNames",
        ),
        (
            {"type": "object", "patternProperties": {"b": {}}, "propertyNames": {"pattern": "a"}},
            "propertyNames",
        ),
        ({"type": "string", "pattern": "a$|b"}, "$ only end it"),
        ({"type": "object", "patternProperties": {"b^a": {}}}, "^ may only begin it"),
        ({"type": "string", "pattern": r"\Aa"}, r"\A is not supported"),
        ({"type": []}, "type must not be an empty list"),
        ({"type": [{}], "enum": ["a"]}, "is not of type"),
        ({"anyOf": []}, "anyOf must not be an empty list"),
        ({"type": "object", "extends": {"type": "string"}}, "extends"),
        ({"type": "string", "contentEncoding": "base64"}, "contentEncoding"),
        ({"maxLength": 3}, "maxLength"),
        ({"type": "object", "required": ["a"]}, "'a'"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'b'"),
    ],
)
def test_a_schema_that_would_not_be_kept_to_is_refused_by_name(
    schema: dict[str, Any], names: str
) -> None:
    """xgrammar passes over each of these in silence, or with a warning that no caller sees."""
    error = refusal(json=schema)
    assert names in str(error) and "at #" in str(error)
    inside = refusal(json={"type": "object", "properties": {"x": schema}})
    assert "#/properties/x" in str(inside)


def test_what_only_looks_like_a_keyword_is_data() -> None:
    StructuredOutputsParams(json={"enum": [{"not": 1}, {"if": 2}]})
    StructuredOutputsParams(json={"type": "object", "properties": {"not": {"type": "string"}}})
    StructuredOutputsParams(json={"type": "array", "uniqueItems": False})


def test_what_beside_an_enum_takes_nothing_from_it_is_allowed() -> None:
    """As pydantic and others write it."""
    for schema in (
        {"type": "string", "enum": ["a", "b"]},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": "number", "enum": [1, 2.5]},
        {"type": "integer", "enum": [1, 2.0]},
        {"type": "string", "const": "a", "enum": ["a"], "title": "A"},
        {"type": "object", "const": {"b": 1, "a": [True]}},
    ):
        StructuredOutputsParams(json=schema)


def test_equal_forms_have_equal_specs_and_the_order_of_properties_counts() -> None:
    a = StructuredOutputsParams(json={"type": "object", "properties": {"a": {}, "b": {}}})
    b = StructuredOutputsParams(json={"type": "object", "properties": {"b": {}, "a": {}}})
    again = StructuredOutputsParams(json={"type": "object", "properties": {"a": {}, "b": {}}})
    assert a.spec() == again.spec() != b.spec()
    compact = StructuredOutputsParams(json_object=True, disable_any_whitespace=True)
    assert compact.spec() != StructuredOutputsParams(json_object=True).spec()


def test_sampling_params_take_no_plain_dict() -> None:
    with pytest.raises(SamplingParamsError, match="StructuredOutputsParams"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]
