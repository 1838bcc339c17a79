"""Names of tokens beside their logprobs, also where a character is split over several tokens.

A token is a piece of bytes; of an emoji most tokenizers make two or three, and shown one by one all
of them are "�". Two rules here (the first is that of ``trace/texts.py``):

* A token that stands in the text is named by what it adds to it: whole characters, which belong to
  the token that completes them; the tokens before it add "". So the names, joined, are the text.
* A token that could have stood there is named by its text, or by the characters it would complete;
  where both are none, by its bytes as OpenAI does: ``bytes:\\xf0\\x9f``. Of two
  with the same bytes one is called by its id. So no two share a name.

Counterpart in vLLM: ``_correct_decoded_token`` in ``vllm/v1/engine/logprobs.py``, which has the
first rule for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.input_processor import TokenizerLike
from minivllm.outputs import Logprob

NO_CHARACTER = "\ufffd"


def named_row(
    tokenizer: TokenizerLike, row: TokenLogprobs, count: int, chosen: str, before: Sequence[int]
) -> dict[int, Logprob]:
    """The token that stands at a place, whose name is ``chosen``, and the ``count`` likeliest there
    after the ids ``before``."""
    named = {row.token_id: Logprob(row.logprob, row.rank, chosen)}
    taken = {chosen}
    for rank, (token_id, logprob) in enumerate(row.top[:count], start=1):
        if token_id not in named:
            name = _name(tokenizer, token_id, before)
            for other in (_spelled(tokenizer.token_bytes(token_id)), f"token_id:{token_id}"):
                name = other if name in taken else name
            taken.add(name)
            named[token_id] = Logprob(logprob, rank, name)
    return named


def _name(tokenizer: TokenizerLike, token_id: int, before: Sequence[int]) -> str:
    text = tokenizer.token_text(token_id)
    if NO_CHARACTER not in text:
        return text
    completed = tokenizer.text_after(token_id, before)
    if completed and NO_CHARACTER not in completed:
        return completed
    return _spelled(tokenizer.token_bytes(token_id))


def _spelled(data: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
