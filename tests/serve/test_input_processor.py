"""A prompt is checked and settled before a single block is spent."""

from __future__ import annotations

import pytest

from minivllm.engine.input_processor import InputProcessor
from minivllm.errors import PromptError, PromptTooLongError, SamplingParamsError
from minivllm.sampling_params import SamplingParams
from minivllm.structured_output.params import StructuredOutputsParams
from tests.serve.fakes import EOS, IM_START, FakeTokenizer, ListTracer

TOKENIZER = FakeTokenizer()


def processor(max_model_len: int = 32, num_kv_blocks: int = 65) -> InputProcessor:
    return InputProcessor(
        TOKENIZER, max_model_len=max_model_len, num_kv_blocks=num_kv_blocks, block_size=4
    )


def process(prompt, params=None, **kwargs):
    return processor(**kwargs).process("q", prompt, params or SamplingParams())


@pytest.mark.parametrize("prompt", ["Hello world", {"prompt": "Hello world"}])
def test_text_is_tokenised(prompt):
    given = process(prompt)
    assert given.prompt == "Hello world"
    assert given.prompt_token_ids == [256, 257]
    assert [s.request_id for s in given.samples] == ["q"]
    assert given.samples[0].eos_token_id == EOS
    assert given.samples[0].parent is None


def test_token_ids_are_taken_as_they_are():
    given = process({"prompt_token_ids": [5, 6]})
    assert (given.prompt, given.prompt_token_ids) == (None, [5, 6])


def test_messages_go_through_the_chat_template():
    given = process([{"role": "user", "content": "a"}])
    assert given.prompt == "<|im_start|>user: a<|im_end|><|im_start|>assistant: "
    assert given.prompt_token_ids[0] == IM_START


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"role": "developer", "content": "a"}, {"role": "system", "content": "a"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "assistant", "content": ""},
        ),
    ],
)
def test_what_openai_calls_otherwise_is_the_same_message(given, same):
    user = {"role": "user", "content": "b"}
    one, other = (process([message, user], max_model_len=99) for message in (given, same))
    assert one.prompt_token_ids == other.prompt_token_ids


def test_content_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    given = process([{"role": "user", "content": parts}])
    assert "user: ab<" in given.prompt


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty"),
        ({"prompt_token_ids": []}, "empty"),
        ({"prompt": "a", "prompt_token_ids": [5]}, "give the text or the ids"),
        ({"prompt_token_ids": "abc"}, "list of ids"),
        ({"prompt_token_ids": [1, -1]}, r"prompt_token_ids\[1\].*got -1"),
        ({"prompt_token_ids": [TOKENIZER.vocab_size]}, "vocabulary"),
        ({"prompt_token_ids": [True]}, "whole number"),
        ({"prompt_token_ids": [1.5]}, "whole number"),
        ({"text": "a"}, r"got the keys \['text'\]"),
        (7, "got int"),
        ([], "at least one message"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"content": "a"}], r"messages\[0\].role"),
        (["a"], r"messages\[0\] must be an object"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "wizard", "content": "a"}], "unknown role"),
        ("a\ud800b", "lone surrogate.*character 1"),
        ([{"role": "user", "content": "\udfff"}], r"messages\[0\].content.*U\+DFFF"),
    ],
)
def test_a_prompt_that_cannot_be_taken_says_why(prompt, says):
    with pytest.raises(PromptError, match=says):
        process(prompt)


def test_a_prompt_longer_than_the_context_is_refused_in_openais_words():
    # PITFALLS: over-long prompt: only a log line, the client hangs
    with pytest.raises(PromptTooLongError) as error:
        process({"prompt_token_ids": [1] * 40})
    assert "This model's maximum context length is 32 tokens." in str(error.value)
    assert "However, your prompt contains 40 input tokens" in str(error.value)


def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer():
    with pytest.raises(PromptTooLongError):
        process({"prompt_token_ids": [1] * 32})
    assert process({"prompt_token_ids": [1] * 31}).samples[0].sampling_params.max_tokens == 1


def test_a_prompt_larger_than_the_pool_is_refused():
    # PITFALLS: a prompt larger than the pool → assertion, or the queue hangs for ever
    assert process({"prompt_token_ids": [1] * 12}, num_kv_blocks=4)  # 3 usable blocks of 4
    with pytest.raises(PromptTooLongError, match=r"at most 12 tokens.*13 input tokens.*4 blocks"):
        process({"prompt_token_ids": [1] * 13}, num_kv_blocks=4)


def test_a_huge_text_is_refused_without_being_tokenised(monkeypatch):
    monkeypatch.setattr(TOKENIZER, "encode", lambda text: pytest.fail("was tokenised"))
    with pytest.raises(PromptTooLongError, match="at least"):
        process("a" * 10_000)


def test_max_tokens_none_is_the_rest_of_the_context():
    given = process("Hello", SamplingParams(max_tokens=None))
    assert given.samples[0].sampling_params.max_tokens == 31


def test_max_tokens_is_cut_to_the_context():
    given = process("Hello", SamplingParams(max_tokens=100))
    assert given.samples[0].sampling_params.max_tokens == 31


def test_min_tokens_that_the_context_cannot_hold_are_refused():
    with pytest.raises(SamplingParamsError, match="min_tokens must be at most 31"):
        process("Hello", SamplingParams(max_tokens=None, min_tokens=32))


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_token_ids": [EOS], "min_tokens": 3},
        {"allowed_token_ids": [EOS, 7], "min_tokens": 3, "stop_token_ids": [7]},
        {"allowed_token_ids": [5, 6], "bad_words_token_ids": [[5], [6]]},
    ],
)
def test_allowed_tokens_of_which_none_may_come_first_are_refused(fields):
    with pytest.raises(SamplingParamsError, match="allowed_token_ids must be with an id"):
        process("a", SamplingParams(**fields))


def test_allowed_tokens_of_which_one_may_come_first_are_taken():
    process("a", SamplingParams(allowed_token_ids=[EOS]))
    process("a", SamplingParams(allowed_token_ids=[EOS, 5], min_tokens=3))
    process("a", SamplingParams(allowed_token_ids=[5], bad_words_token_ids=[[5, 5]]))


def test_stop_token_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(SamplingParamsError, match="stop_token_ids"):
        process("Hello", SamplingParams(stop_token_ids=[TOKENIZER.vocab_size]))


def test_a_stop_string_with_a_lone_surrogate_is_refused():
    with pytest.raises(SamplingParamsError, match="stop"):
        process("Hello", SamplingParams(stop=["\ud800"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {TOKENIZER.vocab_size: 1.0}},
        {"allowed_token_ids": [1, TOKENIZER.vocab_size]},
        {"bad_words_token_ids": [[1, TOKENIZER.vocab_size]]},
    ],
)
def test_ids_outside_the_vocabulary_are_named_with_its_size(fields):
    size = TOKENIZER.vocab_size
    (name,) = fields
    with pytest.raises(SamplingParamsError, match=rf"{name} .*\b{size}\).*got {size}"):
        process("Hello", SamplingParams(**fields))


def banned(*words, **fields) -> list[list[int]]:
    given = process("Hello", SamplingParams(bad_words=list(words), **fields))
    return given.samples[0].sampling_params.bad_words_token_ids


class WordTokenizer(FakeTokenizer):
    """Words are tokens, and have others after a space; "tomcat" is one of three tokens there."""

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens, "a bad word is no text of its own"
        return {"cat": [10], " cat": [11], "tomcat": [12, 10], " tomcat": [12, 11, 13]}[text]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("cat", [[10], [11]]), (" cat", [[10], [11]]), ("tomcat", [[12, 10]])],
)
def test_a_bad_word_is_banned_at_the_beginning_and_after_a_space(word, expected):
    inputs = InputProcessor(WordTokenizer(), max_model_len=32, num_kv_blocks=65, block_size=4)
    prompt = {"prompt_token_ids": [1]}
    given = inputs.process("q", prompt, SamplingParams(bad_words=[word]))
    assert given.samples[0].sampling_params.bad_words_token_ids == expected


def test_bad_words_are_read_without_their_leading_space():
    assert banned("  ing") == banned("ing") == [TOKENIZER.encode("ing")]


def test_bad_words_join_those_given_as_ids():
    assert banned("ing", bad_words_token_ids=[[1, 2]]) == [[1, 2], TOKENIZER.encode("ing")]


@pytest.mark.parametrize("word", [" ", "\n", "\ud800"])
def test_a_bad_word_that_is_no_text_is_refused(word):
    with pytest.raises(SamplingParamsError, match="bad_words"):
        process("Hello", SamplingParams(bad_words=[word]))


def test_only_the_first_of_n_samples_scores_the_prompt():
    given = process("Hello", SamplingParams(n=3, prompt_logprobs=2))
    assert [s.sampling_params.prompt_logprobs for s in given.samples] == [2, None, None]


@pytest.mark.parametrize("salt", ["", "x" * 129, "\ud800", 7])
def test_a_cache_salt_out_of_range_is_refused(salt):
    with pytest.raises(SamplingParamsError, match="cache_salt"):
        processor().process("q", "Hello", SamplingParams(), cache_salt=salt)


def test_n_samples_get_names_and_seeds_of_their_own():
    given = process("Hello", SamplingParams(n=3, seed=7))
    assert [s.request_id for s in given.samples] == ["0_q", "1_q", "2_q"]
    assert {s.parent for s in given.samples} == {"q"}
    assert [s.sampling_params.seed for s in given.samples] == [7, 8, 9]
    assert {s.sampling_params.n for s in given.samples} == {1}


def test_the_seeds_of_samples_stay_within_64_bits():
    given = process("Hello", SamplingParams(n=2, seed=2**63 - 1))
    assert [s.sampling_params.seed for s in given.samples] == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize("seed", [None, -1])
def test_without_a_seed_the_core_makes_one(seed):
    assert process("Hello", SamplingParams(seed=seed)).samples[0].sampling_params.seed is None


def test_tokenising_is_told():
    tracer = ListTracer()
    inputs = InputProcessor(
        TOKENIZER, max_model_len=32, num_kv_blocks=65, block_size=4, tracer=tracer
    )
    inputs.process("q", "Hello world", SamplingParams())
    (event,) = tracer.events
    assert (event.KIND, event.request_id) == ("req.tokenize", "q")
    assert (event.characters, event.tokens) == (11, 2)


def test_what_else_ends_a_text_joins_the_stop_ids_unless_eos_is_ignored(monkeypatch):
    monkeypatch.setattr(TOKENIZER, "other_eos_token_ids", [7, 9])
    asked = SamplingParams(stop_token_ids=[9, 3])
    assert process("Hello world", asked).samples[0].sampling_params.stop_token_ids == [9, 3, 7]
    ignoring = SamplingParams(stop_token_ids=[3], ignore_eos=True)
    assert process("Hello world", ignoring).samples[0].sampling_params.stop_token_ids == [3]
    form = StructuredOutputsParams(regex="a")  # nothing but an end may follow its end
    formed = SamplingParams(stop_token_ids=[3], ignore_eos=True, structured_outputs=form)
    assert process("Hello world", formed).samples[0].sampling_params.stop_token_ids == [3, 7, 9]
