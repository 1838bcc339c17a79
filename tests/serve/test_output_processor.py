"""The core's tokens become what the caller asked for: deltas, or all at once."""

from __future__ import annotations

import pytest

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.input_processor import InputProcessor
from minivllm.engine.messages import EngineCoreOutput
from minivllm.engine.output_processor import OutputProcessor
from minivllm.errors import DuplicateRequestError
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from tests.serve.fakes import EOS, FakeTokenizer, ListTracer

TOKENIZER = FakeTokenizer()
INPUTS = InputProcessor(TOKENIZER, max_model_len=64, num_kv_blocks=65, block_size=4)
HELLO, WORLD = TOKENIZER.encode("Hello world")


def start(kind=OutputKind.DELTA, tracer=None, **params) -> OutputProcessor:
    outputs = OutputProcessor(TOKENIZER, *([tracer] if tracer else []))
    outputs.add_request(INPUTS.process("q", "ab", SamplingParams(**params)), kind)
    return outputs


def said(*token_ids: int, request_id: str = "q", **fields) -> EngineCoreOutput:
    return EngineCoreOutput(request_id=request_id, new_token_ids=list(token_ids), **fields)


def texts(outputs: OutputProcessor, *steps: EngineCoreOutput) -> list[str]:
    return [o.outputs[0].text for s in steps for o in outputs.process_outputs([s]).request_outputs]


def test_deltas_tell_what_is_new():
    outputs = start(OutputKind.DELTA)
    assert texts(outputs, said(HELLO), said(WORLD)) == ["Hello", " world"]


def test_cumulative_outputs_tell_everything():
    outputs = start(OutputKind.CUMULATIVE)
    assert texts(outputs, said(HELLO), said(WORLD)) == ["Hello", "Hello world"]


def test_final_only_tells_everything_once():
    outputs = start(OutputKind.FINAL_ONLY)
    assert texts(outputs, said(HELLO), said(WORLD, finish_reason="length")) == ["Hello world"]
    assert outputs.num_open == 0


def test_the_token_that_ends_it_is_counted_but_not_shown():
    outputs = start(OutputKind.FINAL_ONLY)
    (made,) = outputs.process_outputs([said(HELLO, EOS, finish_reason="stop")]).request_outputs
    assert made.outputs[0].token_ids == [HELLO, EOS]
    assert made.outputs[0].text == "Hello"
    assert (made.outputs[0].finish_reason, made.outputs[0].stop_reason) == ("stop", None)
    assert made.finished


@pytest.mark.parametrize("reason", ["stop", "length", "error", "abort"])
def test_the_finish_reason_is_the_cores(reason):  # PITFALLS: `finish_reason` always "stop"
    outputs = start()
    (made,) = outputs.process_outputs(
        [said(HELLO, finish_reason=reason, stop_reason=HELLO)]
    ).request_outputs
    assert (made.outputs[0].finish_reason, made.outputs[0].stop_reason) == (reason, HELLO)


def test_a_stop_string_ends_the_request_and_calls_it_off_in_the_core():
    outputs = start(OutputKind.FINAL_ONLY, stop=["lo w"])  # PITFALLS: `stop` accepted and ignored
    outputs.process_outputs([said(HELLO)])
    result = outputs.process_outputs([said(WORLD)])
    assert result.to_abort == ["q"]
    (output,) = result.request_outputs[0].outputs
    assert (output.text, output.finish_reason, output.stop_reason) == ("Hel", "stop", "lo w")
    assert output.token_ids == [HELLO, WORLD]


def test_what_the_core_says_after_a_stop_string_is_dropped():
    outputs = start(stop=["Hello"])
    outputs.process_outputs([said(HELLO)])
    result = outputs.process_outputs([said(WORLD, finish_reason="length")])
    assert (result.request_outputs, result.to_abort) == ([], [])


def test_a_stop_string_in_the_last_token_needs_no_abort():
    outputs = start(stop=["Hello"])
    result = outputs.process_outputs([said(HELLO, finish_reason="length")])
    assert result.to_abort == []
    assert result.request_outputs[0].outputs[0].finish_reason == "stop"


def test_samples_of_one_request_come_back_as_one():
    outputs = start(OutputKind.FINAL_ONLY, n=2)
    first = outputs.process_outputs([said(WORLD, request_id="1_q", finish_reason="length")])
    assert first.request_outputs == []
    second = outputs.process_outputs([said(HELLO, request_id="0_q", finish_reason="stop")])
    (made,) = second.request_outputs
    assert [(o.index, o.text) for o in made.outputs] == [(0, ""), (1, " world")]
    assert made.request_id == "q"


def test_each_sample_streams_for_itself_and_the_last_one_finishes_the_request():
    outputs = start(OutputKind.DELTA, n=2)
    step = [said(HELLO, request_id=f"{i}_q") for i in range(2)]
    made = outputs.process_outputs(step).request_outputs
    assert [(o.outputs[0].index, o.finished) for o in made] == [(0, False), (1, False)]
    step = [said(WORLD, request_id=f"{i}_q", finish_reason="length") for i in range(2)]
    made = outputs.process_outputs(step).request_outputs
    assert [(o.outputs[0].text, o.finished) for o in made] == [(" world", False), (" world", True)]


def test_cached_tokens_are_those_of_the_first_sample():
    outputs = start(OutputKind.FINAL_ONLY, n=2)
    step = [
        said(HELLO, request_id="0_q", finish_reason="length", num_cached_tokens=0),
        said(HELLO, request_id="1_q", finish_reason="length", num_cached_tokens=1),
    ]
    assert outputs.process_outputs(step).request_outputs[0].num_cached_tokens == 0


def test_logprobs_carry_the_text_of_each_token():
    outputs = start(OutputKind.FINAL_ONLY, logprobs=2)
    rows = [TokenLogprobs(HELLO, -2.0, 9, [(WORLD, -0.5), (65, -1.0)])]
    (made,) = outputs.process_outputs(
        [said(HELLO, new_logprobs=rows, finish_reason="length")]
    ).request_outputs
    (row,) = made.outputs[0].logprobs
    assert [(i, lp.decoded_token, lp.rank) for i, lp in row.items()] == [
        (HELLO, "Hello", 9),
        (WORLD, " world", 1),
        (65, "A", 2),
    ]
    assert made.outputs[0].cumulative_logprob == -2.0


def test_logprobs_that_were_not_asked_for_are_not_told():
    outputs = start(OutputKind.FINAL_ONLY)
    rows = [TokenLogprobs(HELLO, -2.0, 1)]
    (made,) = outputs.process_outputs(
        [said(HELLO, new_logprobs=rows, finish_reason="length")]
    ).request_outputs
    assert made.outputs[0].logprobs is None
    assert made.outputs[0].cumulative_logprob is None


PROMPT_ROWS = [TokenLogprobs(98, -2.0, 9, [(WORLD, -0.5), (65, -1.0)])]


@pytest.mark.parametrize("kind", OutputKind)
def test_prompt_logprobs_begin_with_none_and_carry_text(kind):
    outputs = start(kind, prompt_logprobs=1)
    steps = [said(HELLO, prompt_logprobs=PROMPT_ROWS), said(WORLD, finish_reason="length")]
    made = [o for step in steps for o in outputs.process_outputs([step]).request_outputs]
    told = [o.prompt_logprobs for o in made]
    none, row = told[0] or []
    assert none is None
    assert [(i, lp.decoded_token, lp.rank) for i, lp in row.items()] == [
        (98, "b", 9),
        (WORLD, " world", 1),
    ]
    # A delta tells what is new; the other kinds tell everything.
    later = {OutputKind.DELTA: [None], OutputKind.CUMULATIVE: [told[0]], OutputKind.FINAL_ONLY: []}
    assert told[1:] == later[kind]


@pytest.mark.parametrize("kind", [OutputKind.DELTA, OutputKind.CUMULATIVE])
def test_prompt_logprobs_are_not_lost_on_a_slow_reader(kind):
    outputs = start(kind, prompt_logprobs=1)
    (first,) = outputs.process_outputs([said(HELLO, prompt_logprobs=PROMPT_ROWS)]).request_outputs
    (second,) = outputs.process_outputs([said(WORLD)]).request_outputs
    first.merge(second, kind)
    assert first.prompt_logprobs is not None and len(first.prompt_logprobs) == 2


def test_a_name_in_use_is_refused_and_free_again_after_the_end():
    outputs = start()
    again = INPUTS.process("q", "ab", SamplingParams())
    with pytest.raises(DuplicateRequestError, match="'q'"):
        outputs.add_request(again, OutputKind.DELTA)
    outputs.process_outputs([said(HELLO, finish_reason="length")])
    outputs.add_request(again, OutputKind.DELTA)


def test_an_aborted_request_is_forgotten_with_all_its_samples():
    outputs = start(OutputKind.CUMULATIVE, n=2)
    outputs.process_outputs([said(HELLO, request_id="0_q", finish_reason="length")])
    last, core_ids = outputs.abort_requests(["q", "unknown"])
    assert core_ids == ["1_q"]
    assert [o.outputs[0].finish_reason for o in last] == ["abort"]
    assert last[0].finished
    assert outputs.num_open == 0


def test_held_back_text_is_told_and_so_is_its_release():
    tracer = ListTracer()
    outputs = start(tracer=tracer, stop=["lo, Welt"])
    outputs.process_outputs([said(HELLO)])
    outputs.process_outputs([said(WORLD)])
    assert [(e.KIND, e.text) for e in tracer.events if e.KIND != "req.detokenize"] == [
        ("req.held_back", "lo"),
        ("req.released", "lo world"),
    ]


def test_each_step_tells_how_many_tokens_became_how_much_text():
    tracer = ListTracer()
    outputs = start(tracer=tracer)
    outputs.process_outputs([said(*TOKENIZER.encode("Hello\U0001f600"))])
    (told,) = [e for e in tracer.events if e.KIND == "req.detokenize"]
    assert (told.tokens, told.characters) == (3, 6) and told.ns > 0
    outputs.process_outputs([said()])  # as with the last output of a request that failed
    assert len([e for e in tracer.events if e.KIND == "req.detokenize"]) == 1


def test_what_a_stop_string_swallowed_is_not_told_as_released():
    tracer = ListTracer()
    outputs = start(tracer=tracer, stop=["lo world"])
    outputs.process_outputs([said(HELLO)])
    outputs.process_outputs([said(WORLD)])
    assert [(e.KIND, e.text) for e in tracer.events if e.KIND != "req.detokenize"] == [
        ("req.held_back", "lo"),
        ("req.released", ""),
    ]


def test_half_a_character_is_told_as_held_back():
    tracer = ListTracer()
    outputs = start(tracer=tracer)
    first, second = TOKENIZER.encode("😀")
    outputs.process_outputs([said(first)])
    outputs.process_outputs([said(second)])
    assert [(e.KIND, e.text) for e in tracer.events if e.KIND != "req.detokenize"] == [
        ("req.held_back", "\ufffd"),
        ("req.released", "😀"),
    ]


def test_a_prompt_that_ends_in_half_a_character_does_not_leak_into_the_output():
    # PITFALLS: partial UTF-8: a prompt that ends in half a character leaks prompt text
    first, second = TOKENIZER.encode("😀")
    outputs = OutputProcessor(TOKENIZER)
    prompt = {"prompt_token_ids": [ord("x"), first]}
    outputs.add_request(INPUTS.process("q", prompt, SamplingParams()), OutputKind.FINAL_ONLY)
    (made,) = outputs.process_outputs([said(second, HELLO, finish_reason="length")]).request_outputs
    assert made.outputs[0].text == TOKENIZER.decode([second, HELLO])
    assert "x" not in made.outputs[0].text
    assert "😀" not in made.outputs[0].text
