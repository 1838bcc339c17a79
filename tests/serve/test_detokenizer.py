"""Text comes out as soon as it is certain, no sooner, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.engine.detokenizer import IncrementalDetokenizer
from tests.serve.fakes import EOS, FakeTokenizer

TOKENIZER = FakeTokenizer()

any_ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)
# Text that stop strings like to be found in: few letters, so that borders and overlaps abound.
some_text = st.text(alphabet="abé\n", max_size=24)
some_stops = st.lists(st.text(alphabet="abé\n", min_size=1, max_size=4), max_size=3)


def split(ids: list[int], sizes: list[int]) -> list[list[int]]:
    portions, rest = [], ids
    for size in sizes:
        portions.append(rest[:size])
        rest = rest[size:]
    return [*portions, rest]


def run(detokenizer: IncrementalDetokenizer, portions: list[list[int]]) -> str:
    """Push and take as the output processor does; the text that a streaming client sees."""
    seen = ""
    for portion in portions:
        detokenizer.push(portion)
        seen += detokenizer.take()
    detokenizer.flush()
    return seen + detokenizer.take()


@given(any_ids, st.lists(st.integers(0, 5), max_size=20), st.booleans())
def test_streamed_text_is_the_decode_of_all_ids_for_any_tokens_and_any_split(ids, sizes, skip):
    detokenizer = IncrementalDetokenizer(TOKENIZER, skip_special_tokens=skip)
    seen = run(detokenizer, split(ids, sizes))
    assert seen == TOKENIZER.decode(ids, skip_special_tokens=skip)
    assert detokenizer.text == seen
    assert detokenizer.held_back == ""


@given(some_text, st.lists(st.integers(0, 5), max_size=20), some_stops, st.booleans())
def test_a_stop_string_ends_the_text_at_the_same_character_for_any_split(
    text, sizes, stops, include
):
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=stops, include_stop_str_in_output=include)
    seen = run(detokenizer, split(list(text.encode()), sizes))

    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    if not ends:
        assert seen == text
        assert detokenizer.stop_string is None
        return
    first = text[: ends[0]]
    found = max((s for s in stops if first.endswith(s)), key=len)
    assert detokenizer.stop_string == found
    assert seen == (first if include else first.removesuffix(found))


@given(some_text, some_stops)
def test_never_more_than_the_longest_stop_string_less_one_is_held_back(text, stops):
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=stops)
    for byte in text.encode():
        detokenizer.push([byte])
        if detokenizer.stop_string is not None:
            break
        waiting = detokenizer.text.removeprefix(detokenizer.shown)
        assert len(waiting) <= max((len(s) for s in stops), default=1) - 1


def test_half_a_character_is_never_emitted():  # PITFALLS: partial UTF-8
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    first, second = TOKENIZER.encode("😀")
    detokenizer.push([first])
    assert detokenizer.take() == ""
    assert detokenizer.held_back == "\ufffd"
    detokenizer.push([second])
    assert detokenizer.take() == "😀"


def test_half_a_character_at_the_end_is_shown_as_a_replacement_character():
    first, _ = TOKENIZER.encode("😀")
    assert run(IncrementalDetokenizer(TOKENIZER), [[ord("a"), first]]) == "a\ufffd"


def test_bytes_that_can_be_no_character_do_not_hold_back_what_follows():
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    detokenizer.push([0xFF, ord("a")])
    assert detokenizer.take() == "\ufffda"


def test_stop_string_over_a_token_border():  # PITFALLS: hold-back must not lose text at the end
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["lo wor"])
    detokenizer.push(TOKENIZER.encode("Hello"))
    assert (detokenizer.take(), detokenizer.held_back) == ("Hel", "lo")
    assert detokenizer.push(TOKENIZER.encode(" world")) == 1
    assert detokenizer.stop_string == "lo wor"
    assert detokenizer.take() == ""
    assert detokenizer.text == "Hel"


def test_held_back_text_comes_out_at_the_end():  # PITFALLS: the same row
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["lo, Welt"])
    detokenizer.push(TOKENIZER.encode("Hello"))
    assert detokenizer.take() == "Hel"
    detokenizer.flush()
    assert detokenizer.take() == "lo"


def test_tokens_after_the_stop_string_are_not_taken():
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["b"])
    assert detokenizer.push([ord("a"), ord("b"), ord("c")]) == 2
    assert detokenizer.num_tokens == 2


def test_of_two_stop_strings_the_one_that_is_complete_first_counts():
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["Hello world", "lo"])
    detokenizer.push(TOKENIZER.encode("Hello world"))
    assert (detokenizer.stop_string, detokenizer.text) == ("lo", "Hel")


def test_include_stop_str_in_output_keeps_it_and_nothing_behind_it():
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["lo wo"], include_stop_str_in_output=True)
    detokenizer.push(TOKENIZER.encode("Hello world"))
    assert detokenizer.text == "Hello wo"


def test_min_tokens_lets_an_early_stop_string_pass():
    detokenizer = IncrementalDetokenizer(TOKENIZER, stop=["a"], min_tokens=3)
    assert run(detokenizer, [[ord(c)] for c in "banana"]) == "ban"


@pytest.mark.parametrize(("skip", "text"), [(True, "a"), (False, "a<|im_end|>")])
def test_special_tokens_are_skipped_or_kept(skip, text):
    detokenizer = IncrementalDetokenizer(TOKENIZER, skip_special_tokens=skip)
    assert run(detokenizer, [[ord("a"), EOS]]) == text


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "ab")])
def test_the_text_of_a_stop_token_is_shown_only_if_asked_for(include, text):
    detokenizer = IncrementalDetokenizer(TOKENIZER, include_stop_str_in_output=include)
    detokenizer.push([ord("a"), ord("b")], last_is_stop_token=True)
    detokenizer.flush()
    assert detokenizer.text == text
