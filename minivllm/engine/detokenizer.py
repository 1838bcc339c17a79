"""IncrementalDetokenizer: token ids in, text out, as soon as it is certain and no sooner.

After each step the output processor pushes a request's new ids here. Two things can make text
uncertain, and both are held back until the next token decides:

* half a character: a byte-level token may end inside a UTF-8 sequence ("é" is two bytes, an
  emoji four), so bytes go through an incremental UTF-8 decoder that keeps an unfinished tail;
* what may begin a stop string: with ``stop=["\\n\\nUser"]`` a "\\n" cannot be shown yet.

        pushed  ├────────── bytes ──────────┤
        text    ├───── whole characters ─────┤half a character
        shown   ├───── certain ─────┤may begin a stop string

Counterpart in vLLM: ``vllm/v1/engine/detokenizer.py``. There every request with stop strings
holds back a constant ``max(len(stop)) - 1`` characters; here that is only the upper bound, since
a tail that begins no stop string is shown at once. There text comes from the tokenizer's decode
stream, which looks at the end of the prompt too; here it comes from each token's bytes, and the
prompt is never looked at, so half a character at its end cannot leak into the output. Left out:
``spaces_between_special_tokens``.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class ByteTokenizer(Protocol):
    """What the detokeniser asks of a tokenizer."""

    @property
    def all_special_ids(self) -> set[int]: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this token stands for; of a special token, its name's."""
        ...


class IncrementalDetokenizer:
    """Text of one sample.

    Invariants, for any ids in any portions and without stop strings: ``text`` is a prefix of
    ``decode(all ids)`` after each push and equal to it after :meth:`flush`. A stop string ends
    the sample at the same character however its letters are divided among tokens.
    """

    def __init__(
        self,
        tokenizer: ByteTokenizer,
        *,
        stop: list[str] | None = None,
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self.text = ""
        """All whole characters so far; cut at the stop string once one was found."""
        self.stop_string: str | None = None
        """The stop string that ended the sample."""
        self.num_tokens = 0
        """Ids pushed so far; no more are taken after a stop string."""
        self.added: list[str | None] = []
        """What each id of the last push has added to the text, a stop string's end included; None
        of one that is not shown. What :meth:`flush` brings out joins the last of them."""
        self._tokenizer = tokenizer
        self._stop = stop or []
        self._include_stop = include_stop_str_in_output
        self._skip_special_tokens = skip_special_tokens
        self._min_tokens = min_tokens
        # "replace" shows bytes that can be no UTF-8 at all as U+FFFD at once, and holds back
        # only what may still become a character: just what a decode of all bytes would give.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._checked = 0  # characters of `text` that no stop string can end within any more
        self._shown = 0  # characters of `text` that take() has given out
        self._finished = False

    def anew(self) -> IncrementalDetokenizer:
        """Another one of the same settings, that has seen nothing."""
        return IncrementalDetokenizer(
            self._tokenizer,
            stop=self._stop,
            include_stop_str_in_output=self._include_stop,
            skip_special_tokens=self._skip_special_tokens,
            min_tokens=self._min_tokens,
        )

    def push(self, token_ids: list[int], *, last_is_stop_token: bool = False) -> int:
        """Append ids, one by one until a stop string is complete; returns how many were taken.

        ``last_is_stop_token``: the last id ended the sample (EOS or a stop id), so its text is
        not shown, unless the caller wants the stop in the output.
        """
        self.added = []
        if self._finished:
            return 0
        for i, token_id in enumerate(token_ids):
            hidden = last_is_stop_token and i == len(token_ids) - 1 and not self._include_stop
            self.num_tokens += 1
            self.added.append(None if hidden else self._push_one(token_id))
            if self.stop_string is not None:
                return i + 1
        return len(token_ids)

    def flush(self) -> None:
        """The sample has ended: nothing can become uncertain any more, so show everything."""
        if not self._finished:
            self._finished = True
            if self.stop_string is None:
                unfinished = self._decoder.decode(b"", final=True)
                self.text += unfinished
                shown = [i for i, text in enumerate(self.added) if text is not None]
                if shown:
                    self.added[shown[-1]] = (self.added[shown[-1]] or "") + unfinished

    def take(self) -> str:
        """The text that became certain since the last call."""
        end = self._certain_end()
        fresh = self.text[self._shown : end]
        self._shown = end
        return fresh

    @property
    def shown(self) -> str:
        """The text that is certain so far."""
        return self.text[: self._certain_end()]

    @property
    def held_back(self) -> str:
        """What is kept back at the moment; half a character is shown as U+FFFD."""
        if self._finished:
            return ""
        unfinished = self._decoder.getstate()[0].decode("utf-8", errors="replace")
        return self.text[self._certain_end() :] + unfinished

    def _push_one(self, token_id: int) -> str | None:
        if self._skip_special_tokens and token_id in self._tokenizer.all_special_ids:
            return None
        added = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        self.text += added
        if self.num_tokens > self._min_tokens:
            self._check_stop()
        self._checked = len(self.text)
        return added

    def _check_stop(self) -> None:
        """End at the stop string that is complete first; of two that end together, the longer.

        "First" is counted in characters, not tokens, so the result does not depend on how the
        text was divided.
        """
        best: tuple[int, int, str] | None = None  # (end, start, stop string)
        for stop in self._stop:
            start = self.text.find(stop, max(0, self._checked - len(stop) + 1))
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        if best is not None:
            end, start, self.stop_string = best
            self.text = self.text[: end if self._include_stop else start]
            self._finished = True

    def _certain_end(self) -> int:
        """Index in ``text`` up to which no future token can take anything back."""
        if self._finished or not self._stop or self._include_stop:
            return len(self.text)
        return len(self.text) - max(_overlap(self.text, stop) for stop in self._stop)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop`` (not all of it)."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
