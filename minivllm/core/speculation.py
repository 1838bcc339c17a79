"""Speculation: guess what a request will say, run the guess as well, keep what was right.

Counterpart in vLLM: ``vllm/v1/spec_decode/ngram_proposer.py``, and what the scheduler does with
``spec_token_ids``. Left out: draft models, EAGLE, Medusa. There the proposer lives in the worker,
because most proposers need the device; looking n-grams up needs the tokens only, so it stands here.

    known      … the cat sat on the cat      <- "the cat" was seen before: it went on "sat on the"
    drafts                           sat on the
    one step   runs the last known token and the drafts; each position is sampled as always:
    sampled                          sat on a         two drafts were right, and "a" comes for free

A draft is accepted while it equals what its position samples with its ordinary noise. So the
tokens are the very same with and without speculation; only the number of steps changes.

A request with a grammar gets no drafts: each position would need a mask of its own, and the matcher
a way back (vLLM does both).
"""

from __future__ import annotations

from array import array

from minivllm.config import SchedulerConfig
from minivllm.request import Request
from minivllm.trace import events as ev
from minivllm.trace.events import Reason
from minivllm.trace.tracer import Tracer


class Speculation:
    """Proposes drafts for a request, and counts those that were right."""

    def __init__(self, config: SchedulerConfig, max_model_len: int, trace: Tracer) -> None:
        self.config = config
        self.max_model_len = max_model_len
        self.trace = trace

    def propose(self, request: Request) -> None:
        """Drafts for the next step. No more than the request may still say: the token that is
        sampled behind the last draft must fit, too."""
        if request.sampling_params.structured_outputs is not None:
            return
        most = min(
            self.config.speculative_ngram,
            request.max_tokens - request.num_output_tokens - 1,
            self.max_model_len - request.num_tokens - 1,
        )
        if most <= 0:
            return
        low, high = self.config.prompt_lookup_min, self.config.prompt_lookup_max
        request.spec_token_ids = ngram_drafts(request.token_ids, most, low, high)
        if request.spec_token_ids:
            self.trace.emit(ev.SpecPropose, request.req_id, token_ids=request.spec_token_ids)

    def verify(self, request: Request, drafts: list[int], num_accepted: int) -> None:
        """The first ``num_accepted`` drafts were sampled; the rest was computed in vain."""
        if num_accepted:
            self.trace.emit(ev.SpecAccept, request.req_id, n=num_accepted, of=len(drafts))
        self._take_back(request, len(drafts) - num_accepted, Reason.DRAFT_MISMATCH)

    def drop(self, request: Request, n: int) -> None:
        """The output ended ``n`` tokens before the last that was accepted."""
        self._take_back(request, n, Reason.OUTPUT_ENDED)

    def _take_back(self, request: Request, n: int, why: Reason) -> None:
        if n:
            request.num_computed_tokens -= n
            self.trace.emit(ev.SpecReject, request.req_id, n=n, why=why)


def ngram_drafts(token_ids: list[int], most: int, low: int, high: int) -> list[int]:
    """Up to ``most`` tokens that followed an earlier place with the same last n tokens.

    n from ``high`` down to ``low``: the longest match is the best evidence. Of several places the
    oldest, as in vLLM, since most tokens follow it. Empty if there is none.
    """
    # As bytes, so that the search runs in C; a match must begin at a whole token.
    packed = array("q", token_ids)
    width, text = packed.itemsize, packed.tobytes()
    for n in range(min(high, len(token_ids) - 1), low - 1, -1):
        needle, found = text[-n * width :], -1
        while (found := text.find(needle, found + 1, -width)) >= 0:  # not the end itself
            if found % width == 0:
                follows = found // width + n
                return token_ids[follows : follows + most]
    return []
