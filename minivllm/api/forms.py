"""The form an answer must have, as requests ask for it: OpenAI's way and vLLM's.

Counterpart in vLLM: ``ResponseFormat`` in ``vllm/entrypoints/serve/engine/protocol.py`` and
``StructuredOutputsParams`` in ``vllm/sampling_params.py``. Left out: structural tags.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minivllm.errors import StructuredOutputError
from minivllm.structured_output.params import StructuredOutputsParams


class JsonSchema(msgspec.Struct, kw_only=True):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    """Always: a text that keeps to the schema keeps to it strictly."""


class ResponseFormat(msgspec.Struct, kw_only=True):
    """OpenAI's way to ask for a form."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None
    """Other servers take one here, beside ``json_object``. Known only so as not to be ignored."""

    def to_params(self) -> StructuredOutputsParams | None:
        if self.schema is not None or (self.type != "json_schema" and self.json_schema is not None):
            allowed = 'of type "json_schema" for a schema, and have it under json_schema.schema'
            raise StructuredOutputError("json", allowed)
        if self.type == "text":
            return None
        if self.type == "json_object":
            return StructuredOutputsParams(json_object=True)
        if self.json_schema is None or self.json_schema.schema is None:
            raise StructuredOutputError("json", "a schema, under json_schema.schema")
        return StructuredOutputsParams(json=self.json_schema.schema)


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's. A field that is not known may be a form that is not built: it is refused."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool | None = None

    def to_params(self) -> StructuredOutputsParams:
        given = msgspec.structs.asdict(self)
        return StructuredOutputsParams(**{k: v for k, v in given.items() if v is not None})
