"""Forms on the real model: valid whatever the scheduling, and the same tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from minivllm import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from minivllm.models.source import ModelSource
from minivllm.replay.model import with_model
from minivllm.replay.recording import read_recording
from minivllm.replay.verify import verify
from minivllm.trace.file import read_trace

pytestmark = pytest.mark.model

KNOBS: dict[str, Any] = {"dtype": "float32", "max_model_len": 512, "num_kv_blocks": 129}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "green", "blue"]},
    },
    "required": ["name", "age", "colour"],
}
NUMBER = r"[1-9]\d{2}-[A-Z]{2}"
CHOICES = ["Paris", "a city in France", "I do not know"]
PROMPT = "A conversation about Paris, the capital of France, and the people who live there. "
FORMS: list[StructuredOutputsParams | None] = [
    StructuredOutputsParams(json=PERSON),
    StructuredOutputsParams(regex=NUMBER),
    None,
    StructuredOutputsParams(choice=CHOICES),
    StructuredOutputsParams(grammar='root ::= "<b>" [a-z]{1,8} "</b>"'),
    StructuredOutputsParams(json=PERSON, disable_any_whitespace=True),
]


def check(form: StructuredOutputsParams | None, output: RequestOutput) -> None:
    sample = output.outputs[0]
    if form is None:
        assert sample.finish_reason == "length" and len(sample.token_ids) == 20
        return
    assert sample.finish_reason == "stop", sample
    if form.json is not None:
        jsonschema.validate(json.loads(sample.text), PERSON)
        assert "\n" not in sample.text or not form.disable_any_whitespace
    elif form.regex is not None:
        assert re.fullmatch(NUMBER, sample.text)
    elif form.choice is not None:
        assert sample.text in CHOICES
    else:
        assert re.fullmatch("<b>[a-z]{1,8}</b>", sample.text)


def generate(llm: LLM) -> list[RequestOutput]:
    """Every form at temperature 0 and 1, all in one batch."""
    params = [
        SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=20 if form is None else 150,
            ignore_eos=form is None,
            structured_outputs=form,
        )
        for temperature, seed in ((0.0, None), (1.0, 1))
        for form in FORMS
    ]
    return llm.generate([PROMPT] * len(params), params, use_tqdm=False)


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("structured") / "roomy.jsonl"


@pytest.fixture(scope="module")
def roomy(smollm2: ModelSource, trace_path: Path) -> list[RequestOutput]:
    with LLM(trace=str(trace_path), max_num_seqs=12, **KNOBS) as llm:
        return generate(llm)


def test_many_forms_in_one_batch_are_all_kept_to(roomy: list[RequestOutput]) -> None:
    for form, output in zip(FORMS * 2, roomy, strict=True):
        check(form, output)


@pytest.mark.parametrize(
    "knobs",
    [
        {"max_num_seqs": 12, "max_num_batched_tokens": 8, "enable_prefix_caching": False},
        {"max_num_seqs": 12, "num_kv_blocks": 30, "block_size": 4},
        {"max_num_seqs": 12, "speculative_ngram": 3},
    ],
    ids=["chunked", "preempted", "speculation"],
)
def test_no_scheduling_changes_a_token(
    knobs: dict[str, Any], roomy: list[RequestOutput], tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    with LLM(trace=str(path), **{**KNOBS, **knobs}) as llm:
        outputs = generate(llm)
    assert tokens(outputs) == tokens(roomy)
    kinds = [event.kind for event in read_trace(path).events]
    if "num_kv_blocks" in knobs:
        assert "req.preempt" in kinds
    if "max_num_batched_tokens" in knobs:
        assert "sched.chunk" in kinds


def test_the_recorded_run_verifies_without_compiler_and_model(
    roomy: list[RequestOutput], trace_path: Path
) -> None:
    trace = read_trace(trace_path)
    verdict = verify(read_recording(trace, "engine0"))
    assert verdict.difference is None, verdict.difference.lines()
    masked = [row.masked for e in trace.events if e.kind == "grammar.mask" for row in e.data.rows]
    assert masked and all(0 < n < 49152 for n in masked)


def test_and_with_the_model_it_says_the_same(
    roomy: list[RequestOutput], trace_path: Path, smollm2: ModelSource
) -> None:
    recording = read_recording(read_trace(trace_path), "engine0")
    executor, text = with_model(recording, None)
    verdict = verify(recording, executor, text, with_logprobs=False)
    assert verdict.difference is None, verdict.difference.lines()


def test_a_string_never_holds_a_special_token(smollm2: ModelSource) -> None:
    """Not even if the model would like nothing more."""
    form = StructuredOutputsParams(json={"type": "string", "maxLength": 30})
    bias = dict.fromkeys(range(17), 100.0)
    params = SamplingParams(
        temperature=1.0, seed=3, max_tokens=60, structured_outputs=form, logit_bias=bias
    )
    with LLM(**KNOBS) as llm:
        special = llm.tokenizer.all_special_ids
        assert {1, 2} <= special  # <|im_start|>, <|im_end|>
        outputs = llm.generate(["Say <|im_start|>: "] * 3, params, use_tqdm=False)
    for output in outputs:
        *said, end = output.outputs[0].token_ids
        assert end == 2 and not special & set(said)
        assert isinstance(json.loads(output.outputs[0].text), str)


def test_samples_of_one_prompt_each_have_their_own_place_in_the_grammar(
    smollm2: ModelSource,
) -> None:
    params = SamplingParams(
        n=4, seed=5, max_tokens=40, structured_outputs=StructuredOutputsParams(regex=NUMBER)
    )
    with LLM(**KNOBS) as llm:
        (output,) = llm.generate("A number: ", params, use_tqdm=False)
    texts = [sample.text for sample in output.outputs]
    assert len(set(texts)) > 1 and all(re.fullmatch(NUMBER, text) for text in texts)
