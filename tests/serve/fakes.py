"""A tokenizer of a few hundred tokens, and an engine core that says what it is told to.

With these the front end is tested with no model and no torch, and to the letter.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine import wire
from minivllm.engine.client import EngineState, EngineStatus
from minivllm.engine.messages import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from minivllm.errors import EngineDeadError, PromptError
from minivllm.trace.events import Data, Reason
from minivllm.trace.texts import text_after
from minivllm.trace.tracer import Tracer

_PIECES = [b"Hello", b" world", b" the", b"ing", "é".encode(), "日本".encode(), b"\n\nUser", b": "]
# An emoji in halves, as byte-level BPE has many: neither half is text.
_PIECES += ["😀".encode()[:2], "😀".encode()[2:]]
_SPECIAL = [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
_BYTES = [bytes([b]) for b in range(256)] + _PIECES + _SPECIAL

EOS = len(_BYTES) - 1
IM_START = len(_BYTES) - 2


class FakeTokenizer:
    """Byte-level: id i < 256 is byte i, then some longer pieces, then three special tokens."""

    vocab_size = len(_BYTES)
    eos_token_id: int | None = EOS
    other_eos_token_ids: list[int] = []
    all_special_ids = set(range(len(_BYTES) - 3, len(_BYTES)))
    added_token_ids = all_special_ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        data, ids = text.encode(), []
        while data:
            size = max(len(piece) for piece in [data[:1], *_PIECES] if data.startswith(piece))
            ids.append(_BYTES.index(data[:size]))
            data = data[size:]
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        kept = [i for i in ids if not (skip_special_tokens and i in self.all_special_ids)]
        return b"".join(_BYTES[i] for i in kept).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return _BYTES[token_id]

    def token_text(self, token_id: int) -> str:
        return _BYTES[token_id].decode(errors="replace")

    def piece(self, token_id: int) -> str:
        return _BYTES[token_id].decode("latin-1")

    def text_after(self, token_id: int, before: Sequence[int]) -> str:
        return text_after(self.token_bytes, token_id, before)

    def apply_chat_template(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        if any(m["role"] not in ("system", "user", "assistant") for m in messages):
            raise PromptError("unknown role")
        text = "".join(f"<|im_start|>{m['role']}: {m['content']}<|im_end|>" for m in messages)
        return text + "<|im_start|>assistant: "

    def encode_chat(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> list[int]:
        self.apply_chat_template(messages)
        ids: list[int] = []
        for m in messages:
            ids += [IM_START, *self.encode(f"{m['role']}: {m['content']}"), EOS]
        return [*ids, IM_START, *self.encode("assistant: ")] if add_generation_prompt else ids


def request_by_wire(request: EngineCoreRequest) -> EngineCoreRequest:
    """As it comes out in the engine's process, under ``serve``."""
    sent = wire.decode_to_engine(wire.encode(wire.Add(request=request)))
    assert isinstance(sent, wire.Add)
    return sent.request


def outputs_by_wire(outputs: EngineCoreOutputs) -> EngineCoreOutputs:
    """And the way back."""
    sent = wire.decode_to_front(wire.encode(wire.Outputs(outputs=outputs)))
    assert isinstance(sent, wire.Outputs)
    return sent.outputs


Script = Callable[[EngineCoreRequest], list[int]]


class FakeClient:
    """An EngineCoreClient. One step gives one token to each open request, on its own thread.
    What goes in and out has been msgpack, as it has between processes."""

    def __init__(
        self,
        script: Script | str | list[int] = "Hello world",
        *,
        max_model_len: int = 64,
        num_kv_blocks: int = 65,
        paused: bool = False,
    ) -> None:
        self.script = script
        self.requests: list[EngineCoreRequest] = []
        self.aborted: list[tuple[str, Reason]] = []
        self.cached_tokens = 0
        self.down = False
        self._facts = {
            "max_model_len": max_model_len,
            "num_kv_blocks": num_kv_blocks,
            "block_size": 4,
        }
        self._open: dict[str, tuple[EngineCoreRequest, list[int]]] = {}
        self._outputs: queue.SimpleQueue[EngineCoreOutputs] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._allowed: float = 0 if paused else float("inf")
        self._death: str | None = None
        self._step = 0
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    # --- for the test --------------------------------------------------------------------------

    @property
    def aborted_ids(self) -> list[str]:
        return [request_id for request_id, _ in self.aborted]

    @property
    def num_open(self) -> int:
        with self._changed:
            return len(self._open)

    def allow(self, steps: float = float("inf")) -> None:
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def pause(self) -> None:
        with self._changed:
            self._allowed = 0

    def die(self, message: str) -> None:
        with self._changed:
            self._death = message
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> bool:
        """Wait until something holds that requests, aborts or steps bring about."""
        with self._changed:
            return self._changed.wait_for(condition, timeout=seconds)

    def fail(self, request_id: str, message: str, refused: bool = False) -> None:
        """End one request with an error of its own."""
        with self._changed:
            del self._open[request_id]
        error = EngineCoreOutput(
            request_id=request_id,
            new_token_ids=[],
            finish_reason="error",
            stop_reason=message,
            refused=refused,
        )
        self._outputs.put(EngineCoreOutputs(step=self._step, outputs=[error]))

    # --- the protocol --------------------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> int:
        request = request_by_wire(request)
        with self._changed:
            if self._death is not None:
                raise EngineDeadError("dead")
            self.requests.append(request)
            self._open[request.request_id] = (request, [])
            self._changed.notify_all()
        return 0

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        with self._changed:
            for request_id in request_ids:
                self.aborted.append((request_id, why))
                self._open.pop(request_id, None)
            self._changed.notify_all()

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        try:
            outputs = self._outputs.get(timeout=timeout)
        except queue.Empty:
            return None
        if outputs.error is not None:
            raise EngineDeadError(outputs.error)
        return outputs_by_wire(outputs)

    def engines(self) -> list[EngineStatus]:
        state: EngineState = "ready" if self._death is None else "dead"
        return [EngineStatus(engine=0, state=state, open_requests=self.num_open)]

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def check_ready(self) -> None:
        if self._death is not None:
            raise EngineDeadError(self._death)

    def shutdown(self) -> None:
        with self._changed:
            self.down = True
            self._changed.notify_all()
        self._thread.join()

    # --- the engine ----------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self.down or self._death is not None or (self._open and self._allowed > 0)
                    )
                )
                if self.down:
                    return
                if self._death is not None:
                    self._outputs.put(EngineCoreOutputs(step=-1, error=self._death))
                    return
                self._allowed -= 1
                self._step += 1
                outputs = [self._advance(name) for name in list(self._open)]
                self._outputs.put(EngineCoreOutputs(step=self._step, outputs=outputs))
                self._changed.notify_all()

    def _advance(self, name: str) -> EngineCoreOutput:
        request, said = self._open[name]
        params = request.sampling_params
        line = self._line(request)
        token_id = line[len(said)] if len(said) < len(line) else EOS
        said.append(token_id)
        reason: str | None = None
        stop_reason: int | None = None
        if token_id == request.eos_token_id and not params.ignore_eos:
            reason = "stop"
        elif token_id in params.stop_token_ids:
            reason, stop_reason = "stop", token_id
        elif len(said) == params.max_tokens:
            reason = "length"
        if reason is not None:
            del self._open[name]
        rows = []
        if params.logprobs is not None:
            # The chosen token is the second most likely; "é" always comes first.
            top = [(260, -0.25), (token_id, -1.5), (0, -3.0)][: params.logprobs]
            rows = [TokenLogprobs(token_id, -1.5, 2, top)]
        prompt_rows = None
        if params.prompt_logprobs is not None and len(said) == 1:
            top = [(260, -0.25)][: params.prompt_logprobs]
            prompt_rows = [
                TokenLogprobs(i, -float("inf"), 7, top) for i in request.prompt_token_ids
            ]
        return EngineCoreOutput(
            request_id=name,
            new_token_ids=[token_id],
            new_logprobs=rows,
            prompt_logprobs=prompt_rows and prompt_rows[1:],
            finish_reason=reason,
            stop_reason=stop_reason,
            num_cached_tokens=self.cached_tokens,
        )

    def _line(self, request: EngineCoreRequest) -> list[int]:
        if callable(self.script):
            return self.script(request)
        if isinstance(self.script, str):
            return FakeTokenizer().encode(self.script)
        return self.script


class ListTracer(Tracer):
    """Keeps what it is told."""

    on = True

    def __init__(self) -> None:
        self.events: list[Data] = []

    def emit(self, kind: Any, req: str | None, /, *args: Any, **kwargs: Any) -> None:
        self.events.append(kind(*args, **kwargs))

    def kinds(self) -> list[str]:
        return [event.KIND for event in self.events]
