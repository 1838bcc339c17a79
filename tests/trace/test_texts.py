"""A token's text in a trace: whole characters, which belong to the token that completes them."""

from __future__ import annotations

from functools import partial

import hypothesis.strategies as st
from hypothesis import given

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.fold import fold
from minivllm.trace.recorder import Recorder
from minivllm.trace.texts import CONTEXT, text_after, texts_of
from tests.core.builders import SMALL, message, recorder
from tests.helpers import events_of


def one_byte(token_id: int) -> bytes:
    """The smallest tokens there are: id i is byte i."""
    return bytes([token_id])


texts = partial(texts_of, partial(text_after, one_byte))


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    assert texts(list("a東😀".encode())) == ["a", "", "", "東", "", "", "", "😀"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(texts(list(text.encode()))) == text


@given(st.binary(max_size=40))
def test_what_is_no_character_is_shown_once_and_disturbs_nothing(noise: bytes) -> None:
    assert "".join(texts([*noise, *b". \xc3\xa9"])).endswith(". é")


@given(st.binary(min_size=CONTEXT + 1, max_size=12), st.integers(0, 255))
def test_three_tokens_of_context_are_enough(before: bytes, token_id: int) -> None:
    long, short = (text_after(one_byte, token_id, list(b)) for b in (before, before[-CONTEXT:]))
    assert long == short


def run(prompt: str, says: str, cut: int, steps: int) -> Recorder:
    """A prompt without its last ``cut`` bytes; the request then says these, and ``says``."""
    told = Recorder(recorder().log, token_text=partial(text_after, one_byte))
    ids, config = list(prompt.encode()), make_config(**SMALL)
    said = ids[len(ids) - cut :] + list(says.encode())
    core = EngineCore(config, ScriptedExecutor(config, lambda _req, i: said[i]), told)
    core.add_request(message("q", ids[: len(ids) - cut], max_tokens=len(said)))
    for _ in range(steps):
        core.step()
    return told


def test_prompt_and_output_share_a_character() -> None:
    """The prompt ends in half a character; the first token that is said completes it."""
    events = events_of(run("né", "!", cut=1, steps=2))
    arrive, *said = [e.data for e in events if e.kind in ("req.arrive", "req.token")]
    assert arrive.texts == ["n", ""] and [token.text for token in said] == ["é", "!"]
    rows = [row for e in events if e.kind == "sample" for row in e.data.rows]
    assert [row.text for row in rows] == ["é", "!"]


def test_the_state_that_viewers_show_holds_whole_characters() -> None:
    state = fold(events_of(run("東京 🚀", "🚀", cut=0, steps=2)))
    assert "".join(state.requests["r1"].texts) == "東京 🚀", "half a rocket is not shown"
