"""OutputProcessor: the engine core's tokens become text, and the caller's RequestOutput.

Counterpart of the input processor on the way back. The core knows nothing of text, so this room
finds stop strings and says which requests the core must abort for them; it joins the n samples of
one request; it puts text beside the logprobs. It knows neither threads nor asyncio: ``LLM`` calls
it in a loop, ``AsyncLLM`` from its output thread.

Counterpart in vLLM: ``vllm/v1/engine/output_processor.py``, ``logprobs.py`` and
``parallel_sampling.py``. Left out: pooling.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.detokenizer import IncrementalDetokenizer
from minivllm.engine.input_processor import ProcessedInput, TokenizerLike
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.engine.stats import IterationStats, RequestStateStats
from minivllm.engine.token_names import named_row
from minivllm.errors import DuplicateRequestError
from minivllm.outputs import CompletionOutput, Logprob, OutputKind, RequestOutput
from minivllm.trace.events import ReqDetokenize, ReqHeldBack, ReqReleased
from minivllm.trace.texts import CONTEXT
from minivllm.trace.tracer import OFF, Tracer


@dataclass(slots=True)
class _Sample:
    """One of a request's n outputs, while it runs."""

    request: _Request
    index: int
    core_id: str
    detokenizer: IncrementalDetokenizer
    num_logprobs: int | None
    stats: RequestStateStats
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    num_sent: int = 0
    """Tokens (and rows of logprobs) that an earlier delta has told."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    refused: bool = False
    engine_died: bool = False


@dataclass(slots=True)
class _Request:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    kind: OutputKind
    samples: list[_Sample] = field(default_factory=list)
    num_cached_tokens: int = 0
    num_prompt_logprobs: int = 0
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    @property
    def finished(self) -> bool:
        return all(sample.finish_reason is not None for sample in self.samples)


@dataclass(slots=True)
class ProcessedOutputs:
    """What one step brought, for the callers and for the core."""

    request_outputs: list[RequestOutput] = field(default_factory=list)
    to_abort: list[str] = field(default_factory=list)
    """Core requests that a stop string has ended, which the core cannot know."""


class OutputProcessor:
    def __init__(self, tokenizer: TokenizerLike, tracer: Tracer = OFF) -> None:
        self._tokenizer = tokenizer
        self._trace = tracer
        self._requests: dict[str, _Request] = {}
        self._samples: dict[str, _Sample] = {}

    @property
    def num_open(self) -> int:
        """Requests that have not finished."""
        return len(self._requests)

    def open_ids(self) -> list[str]:
        return list(self._requests)

    def add_request(self, given: ProcessedInput, kind: OutputKind) -> None:
        """Await the outputs of a request; before the core gets it, since it may answer at once.

        Raises DuplicateRequestError while a request of that name is open.
        """
        names = {given.request_id, *(sample.request_id for sample in given.samples)}
        if given.request_id in self._requests or any(name in self._samples for name in names):
            raise DuplicateRequestError(
                f"request id {given.request_id!r} is in use by a request that has not finished"
            )
        request = _Request(given.request_id, given.prompt, given.prompt_token_ids, kind)
        request.num_prompt_logprobs = given.samples[0].sampling_params.prompt_logprobs or 0
        self._requests[given.request_id] = request
        for index, core_request in enumerate(given.samples):
            sample = self._make_sample(request, index, core_request, given.arrival_ns)
            request.samples.append(sample)
            self._samples[sample.core_id] = sample

    def _make_sample(
        self, request: _Request, index: int, given: EngineCoreRequest, arrival_ns: int
    ) -> _Sample:
        params = given.sampling_params
        detokenizer = IncrementalDetokenizer(
            self._tokenizer,
            stop=params.stop,
            include_stop_str_in_output=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
            min_tokens=params.min_tokens,
        )
        stats = RequestStateStats(arrival_ns, len(given.prompt_token_ids), params.max_tokens)
        return _Sample(request, index, given.request_id, detokenizer, params.logprobs, stats)

    def sent_to(self, core_id: str, engine: int) -> None:
        """Which engine has got this core request."""
        if core_id in self._samples:
            self._samples[core_id].stats.engine = engine

    def process_outputs(
        self, outputs: Iterable[EngineCoreOutput], iteration: IterationStats | None = None
    ) -> ProcessedOutputs:
        """Take in one step, and what it brought into ``iteration``. Outputs of requests that were
        aborted meanwhile are dropped."""
        iteration = iteration or IterationStats()
        result = ProcessedOutputs()
        for output in outputs:
            sample = self._samples.get(output.request_id)
            if sample is None:
                continue
            if output.begins_anew:
                self._begin_anew(sample)
            if sample.index == 0 and output.num_cached_tokens:
                sample.request.num_cached_tokens = output.num_cached_tokens
            if output.prompt_logprobs is not None:
                self._take_in_prompt(sample.request, output.prompt_logprobs)
            iteration.take_in(sample.stats, output)
            if self._take_in(sample, output):
                result.to_abort.append(sample.core_id)
            if sample.finish_reason is not None:
                _count_end(sample, iteration)
            made = self._make_output(sample)
            if made is not None:
                result.request_outputs.append(made)
        return result

    def abort_requests(
        self,
        request_ids: Iterable[str],
        iteration: IterationStats | None = None,
        finish_reason: str = "abort",
    ) -> tuple[list[RequestOutput], list[str]]:
        """Forget these requests: their last outputs, and the core requests to call off."""
        iteration = iteration or IterationStats()
        last, core_ids = [], []
        for request_id in request_ids:
            request = self._requests.get(request_id)
            if request is None:
                continue
            unfinished = [sample for sample in request.samples if sample.finish_reason is None]
            for sample in unfinished:
                self._end(sample, finish_reason, None)
                _count_end(sample, iteration)
                core_ids.append(sample.core_id)
            last.append(self._request_output(request, unfinished))
        return last, core_ids

    # --- taking in -----------------------------------------------------------------------------

    def _take_in(self, sample: _Sample, output: EngineCoreOutput) -> bool:
        """Append one step's tokens; True if a stop string has ended what the core would go on
        with."""
        detokenizer = sample.detokenizer
        before = (detokenizer.held_back, len(detokenizer.shown)) if self._trace.on else None
        begin = time.perf_counter_ns() if self._trace.on else 0
        taken = detokenizer.push(
            output.new_token_ids, last_is_stop_token=output.finish_reason == "stop"
        )
        if before is not None and output.new_token_ids:
            self._trace.emit(
                ReqDetokenize,
                None,
                request_id=sample.core_id,
                tokens=taken,
                characters=len(detokenizer.shown) - before[1],
                ns=time.perf_counter_ns() - begin,
            )
        sample.token_ids.extend(output.new_token_ids[:taken])

        stop_string = detokenizer.stop_string
        if stop_string is not None:
            self._end(sample, "stop", stop_string)
        elif output.finish_reason is not None:
            sample.refused, sample.engine_died = output.refused, output.engine_died
            self._end(sample, output.finish_reason, output.stop_reason)
        if sample.num_logprobs is not None:  # not before its end, which may add half a character
            first = len(sample.token_ids) - taken
            self._take_in_logprobs(sample, output.new_logprobs[:taken], first)
        if before is not None:
            self._tell_held_back(sample, *before)
        return stop_string is not None and output.finish_reason is None

    def _take_in_logprobs(self, sample: _Sample, rows: list[TokenLogprobs], first: int) -> None:
        """``first``: the place of the first row's token in the sample."""
        count, added = sample.num_logprobs or 0, sample.detokenizer.added
        for i, row in enumerate(rows):
            text = added[i] if added[i] is not None else self._tokenizer.token_text(row.token_id)
            before = sample.token_ids[max(first + i - CONTEXT, 0) : first + i]
            sample.logprobs.append(named_row(self._tokenizer, row, count, text or "", before))
            sample.cumulative_logprob += row.logprob

    def _begin_anew(self, sample: _Sample) -> None:
        """Its engine has died, another one says all from the beginning; nobody has seen a word."""
        sample.detokenizer = sample.detokenizer.anew()
        sample.token_ids, sample.logprobs, sample.cumulative_logprob = [], [], 0.0
        sample.num_sent = 0
        sample.stats.num_generation_tokens = 0
        if sample.index == 0:
            sample.request.num_cached_tokens = 0

    def _take_in_prompt(self, request: _Request, rows: list[TokenLogprobs]) -> None:
        count = request.num_prompt_logprobs
        request.prompt_logprobs = [None]
        for i, row in enumerate(rows, start=1):
            before = request.prompt_token_ids[max(i - CONTEXT, 0) : i]
            text = self._tokenizer.text_after(row.token_id, before)
            named = named_row(self._tokenizer, row, count, text, before)
            request.prompt_logprobs.append(named)

    def _end(self, sample: _Sample, finish_reason: str, stop_reason: int | str | None) -> None:
        sample.detokenizer.flush()
        sample.finish_reason, sample.stop_reason = finish_reason, stop_reason
        del self._samples[sample.core_id]
        if sample.request.finished:
            del self._requests[sample.request.request_id]

    def _tell_held_back(self, sample: _Sample, held_before: str, num_shown: int) -> None:
        """Say what came out after having been kept back (nothing, where a stop string swallowed
        it), and what is kept back now."""
        held = sample.detokenizer.held_back
        fresh = sample.detokenizer.shown[num_shown:]
        if held_before and (fresh or not held):
            self._trace.emit(ReqReleased, None, request_id=sample.core_id, text=fresh)
        if held and (fresh or held != held_before):
            self._trace.emit(ReqHeldBack, None, request_id=sample.core_id, text=held)

    # --- handing out ---------------------------------------------------------------------------

    def _make_output(self, sample: _Sample) -> RequestOutput | None:
        request = sample.request
        if request.kind is OutputKind.FINAL_ONLY:
            return self._request_output(request, request.samples) if request.finished else None
        if not sample.token_ids and sample.finish_reason is None:
            return None  # its prompt is still being run
        return self._request_output(request, [sample])

    def _request_output(self, request: _Request, samples: list[_Sample]) -> RequestOutput:
        if request.kind is OutputKind.FINAL_ONLY:
            samples = request.samples
        prompt_logprobs = request.prompt_logprobs
        if request.kind is OutputKind.DELTA:
            request.prompt_logprobs = None
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=[_completion(sample, request.kind) for sample in samples],
            finished=request.finished,
            num_cached_tokens=request.num_cached_tokens,
            prompt_logprobs=prompt_logprobs,
        )


def _count_end(sample: _Sample, iteration: IterationStats) -> None:
    iteration.finish(sample.stats, sample.finish_reason or "")
    if sample.request.finished:
        iteration.finish_request(sibling.stats for sibling in sample.request.samples)


def _completion(sample: _Sample, kind: OutputKind) -> CompletionOutput:
    """The sample as its caller wants it: what is new (delta), or everything."""
    delta = kind is OutputKind.DELTA
    start = sample.num_sent if delta else 0
    sample.num_sent = len(sample.token_ids)
    wanted = sample.num_logprobs is not None
    return CompletionOutput(
        index=sample.index,
        text=sample.detokenizer.take() if delta else sample.detokenizer.shown,
        token_ids=sample.token_ids[start:],
        cumulative_logprob=sample.cumulative_logprob if wanted else None,
        logprobs=sample.logprobs[start:] if wanted else None,
        finish_reason=sample.finish_reason,
        stop_reason=sample.stop_reason,
        refused=sample.refused,
        engine_died=sample.engine_died,
    )
