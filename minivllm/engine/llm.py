"""LLM: the offline entry. Give it prompts, get their outputs back when all are done.

The shortest way through the whole engine: make the requests, hand them to the core, take in its
steps until nothing is open. Counterpart in vLLM: ``vllm/entrypoints/llm.py`` together with
``vllm/v1/engine/llm_engine.py``. Left out: beam search, pooling, scoring, sleep mode.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from minivllm.config import make_config
from minivllm.engine.client import EngineCoreClient
from minivllm.engine.input_processor import Messages, Prompt, TokenizerLike
from minivllm.engine.messages import SchedulerStats
from minivllm.engine.parts import Parts, build, join
from minivllm.engine.progress import GenerationProgress
from minivllm.engine.stats import IterationStats, StatLogger
from minivllm.errors import EngineDeadError, MiniVLLMError, PromptError, SamplingParamsError
from minivllm.outputs import OutputKind, RequestOutput
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Reason
from minivllm.trace.tracer import OFF, Tracer

T = TypeVar("T")

POLL_S = 0.5
"""How long to wait for a step before looking up again, in seconds. It sets no pace: an output
that is there is taken at once. Ctrl-C is noticed within this time on every platform."""


class LLM:
    """An engine and its model, for use in a script or a notebook.

        llm = LLM(model="smollm2-135m", max_num_seqs=8, trace="run.trace.jsonl")
        for output in llm.generate(["Once upon a time"], SamplingParams(max_tokens=32)):
            print(output.outputs[0].text)
        llm.shutdown()                      # or: with LLM(...) as llm:

    Keyword arguments are the fields of :class:`~minivllm.config.ModelConfig`,
    :class:`~minivllm.config.CacheConfig` and :class:`~minivllm.config.SchedulerConfig`, named as
    vLLM names them. ``trace``: write the run's events to this file; ``trace_level="sampling"``:
    also what each logits processor did; ``"tensors"``: also the arrays of each step.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        trace: str | None = None,
        trace_level: str | None = None,
        **engine_args: Any,
    ) -> None:
        config = make_config(model=model, path=trace, level=trace_level, **engine_args)
        self._start(build(config, lockstep=True))

    @classmethod
    def from_parts(
        cls, client: EngineCoreClient, tokenizer: TokenizerLike, tracer: Tracer = OFF
    ) -> LLM:
        """An LLM around an engine that runs already, or around a scripted one."""
        llm = cls.__new__(cls)
        llm._start(join(client, tokenizer, tracer))
        return llm

    def _start(self, parts: Parts) -> None:
        self.client = parts.client
        self.tokenizer = parts.tokenizer
        self.trace_log = parts.trace_log
        self._parts = parts
        self._ids = itertools.count()
        self._turn = threading.Lock()  # one generate() at a time reads the outputs

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Outputs in the order of the prompts. Blocks until all are there.

        ``prompts``: a string, ``{"prompt_token_ids": [...]}``, or a list of such.
        ``sampling_params``: one for all prompts, or one for each. ``use_tqdm``: show progress.
        ``priority``: one number a prompt; smaller is served first under the priority policy.

        Ctrl-C aborts what is open and leaves the LLM usable. Raises PromptError,
        PromptTooLongError or SamplingParamsError before anything runs; EngineDeadError.
        """
        if isinstance(prompts, (str, Mapping)):
            prompts = [prompts]
        elif isinstance(prompts, (bytes, bytearray)) or not isinstance(prompts, Iterable):
            raise PromptError(
                "prompts must be a string, a dict with 'prompt' or 'prompt_token_ids', or a list "
                f"of such, got {type(prompts).__name__}"
            )
        return self._run(list(prompts), sampling_params, use_tqdm, priority)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """The next message of one conversation (a list of ``{"role", "content"}``), or of each
        conversation in a list; through the model's own chat template."""
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise PromptError(
                "messages must be a list of {'role': ..., 'content': ...}, or a list of such lists"
            )
        conversations = [messages] if isinstance(messages[0], Mapping) else list(messages)
        return self._run(conversations, sampling_params, use_tqdm, None, chat=True)

    def add_stat_logger(self, listener: StatLogger) -> None:
        """From now on ``listener`` hears of every step; see :class:`StatLogger`."""
        self._parts.stats.add(listener)

    def stats(self) -> dict[int, SchedulerStats]:
        """How each engine stood when it last said so."""
        return self._parts.stats.newest()

    def debug_parts(self) -> tuple[Parts, threading.Lock]:
        """For a debugger, which sends and reads beside :meth:`generate`: the engine's front, and
        the lock that is held by whoever reads its outputs."""
        return self._parts, self._turn

    def shutdown(self) -> None:
        """End the engine and free its memory. May be called twice."""
        self._parts.tracer.flush()
        self.client.shutdown()
        if self.trace_log is not None:
            self._parts.tracer.flush()
            self.trace_log.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    # --- the way through -----------------------------------------------------------------------

    def _run(
        self,
        prompts: list[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
        priority: Sequence[int] | None,
        chat: bool = False,
    ) -> list[RequestOutput]:
        given_params = SamplingParams() if sampling_params is None else sampling_params
        params = _one_each("sampling_params", given_params, len(prompts))
        priorities = _one_each("priority", 0 if priority is None else priority, len(prompts))
        with self._turn:
            # All are checked before the first is sent: a bad prompt must not leave others behind.
            inputs = [
                self._parts.inputs.process(
                    str(next(self._ids)),
                    _as_given(prompt, i, chat),
                    params[i],
                    priority=priorities[i],
                )
                for i, prompt in enumerate(prompts)
            ]
            try:
                for given in inputs:
                    self._parts.outputs.add_request(given, OutputKind.FINAL_ONLY)
                    for sample in given.samples:
                        self.client.add_request(sample)
                with GenerationProgress(len(inputs), show=use_tqdm) as progress:
                    done = self._wait(progress)
            except BaseException:  # Ctrl-C too
                self._abort_open()
                raise
        return [done[given.request_id] for given in inputs]

    def _wait(self, progress: GenerationProgress) -> dict[str, RequestOutput]:
        """Take in step after step until no request is open."""
        outputs, done = self._parts.outputs, {}
        while outputs.num_open:
            step = self.client.get_output(timeout=POLL_S)
            if step is None:
                continue
            if step.error is not None:
                raise EngineDeadError(step.error)
            iteration = IterationStats.of(step)
            processed = outputs.process_outputs(step.outputs, iteration)
            self._parts.stats.record(step.stats, iteration)
            if processed.to_abort:
                self.client.abort_requests(processed.to_abort, Reason.STOP_STRING)
            for output in processed.request_outputs:
                done[output.request_id] = output
            new_tokens = sum(len(output.new_token_ids) for output in step.outputs)
            self._parts.tracer.flush()
            progress.advance(finished=len(processed.request_outputs), tokens=new_tokens)
        return done

    def _abort_open(self) -> None:
        iteration = IterationStats()
        open_ids = self._parts.outputs.open_ids()
        _, core_ids = self._parts.outputs.abort_requests(open_ids, iteration)
        self._parts.stats.record(None, iteration)
        with contextlib.suppress(MiniVLLMError):  # a dead engine has nothing to abort
            self.client.abort_requests(core_ids, Reason.CLIENT)


def _one_each(name: str, given: T | Sequence[T], count: int) -> list[T]:
    """``given`` as a list with one entry for each prompt."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):  # refused further on
        return [given] * count
    if len(given) != count:
        raise SamplingParamsError(
            name, f"{len(given)} of them", f"one for all, or one for each of the {count} prompts"
        )
    return list(given)


def _as_given(prompt: Any, i: int, chat: bool) -> Prompt:
    """The prompt, if it is of a kind that :meth:`LLM.generate` (or ``chat``) takes."""
    if chat or isinstance(prompt, (str, Mapping)):
        return prompt
    hint = "; token ids are given as {'prompt_token_ids': [...]}, messages to LLM.chat"
    raise PromptError(f"prompts[{i}] must be a string or a dict, got {type(prompt).__name__}{hint}")
