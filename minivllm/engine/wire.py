"""The wire: what front end and engine process say to each other, as msgpack.

One message is one frame: a struct whose tag (``type``) says which. Who receives decodes by a closed
union, so what is no message of this list is refused as a whole, and nothing is ever executed.

    front → engine   add, abort, set_knobs, arm, reset_prefix_cache, gate, taken, shutdown
    engine → front   ready | start_failed, outputs, heartbeat, gate_state, facts, answer

The trace has a channel of its own (``trace/channel.py``). In one process the same structs wait in
the loop's queue, and are never encoded. Counterpart in vLLM: ``EngineCoreRequestType`` and
``vllm/v1/serial_utils.py``, which falls back to pickle where it is allowed to; this never does.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import msgspec

from minivllm.config import EngineConfig
from minivllm.engine.capture import ArmedStep
from minivllm.engine.messages import EngineCoreOutputs, EngineCoreRequest
from minivllm.errors import ConfigError
from minivllm.trace.events import Reason
from minivllm.trace.gate_control import GateState

MAX_MESSAGE_BYTES = 256 * 2**20
"""Of one frame; a longer one ends its sender's connection. Logprobs of a long prompt take a few."""


class Message(msgspec.Struct, kw_only=True, tag_field="type"):
    sent_ns: int = 0
    """``time.perf_counter_ns``, which all processes of a machine share."""


# --- front → engine ----------------------------------------------------------------------------


class Add(Message, tag="add"):
    request: EngineCoreRequest


class Abort(Message, tag="abort"):
    request_ids: list[str]
    why: Reason


class Call(Message, kw_only=True):
    """What is answered."""

    call_id: int = 0
    """Each call has a number of its own."""
    deadline_ns: int = 0
    """Of ``time.perf_counter_ns``: who takes it later answers that it was too late, and does
    nothing, since its caller has given up. 0: none."""


class SetKnobs(Call, kw_only=True, tag="set_knobs"):
    knobs: dict[str, Any]


class Arm(Call, kw_only=True, tag="arm"):
    step: ArmedStep


class ResetPrefixCache(Message, tag="reset_prefix_cache"):
    pass


class GateVerb(Call, kw_only=True, tag="gate"):
    """``pause`` | ``resume`` | ``step`` | ``next_phase`` | ``next_event`` | ``until`` |
    ``rate``."""

    verb: str
    value: int | float | str | None = None


class Taken(Message, tag="taken"):
    """In lockstep: the reader has come back for more, after so many outputs."""

    num_taken: int


class Shutdown(Message, tag="shutdown"):
    pass


Input = Add | Abort | SetKnobs | Arm | ResetPrefixCache
"""What the busy loop applies between two steps, in order."""
ToEngine = Input | GateVerb | Taken | Shutdown


class OnlyItsId(msgspec.Struct, tag_field="type", tag="add"):
    """What can be read of a request that cannot be read: who waits for it shall hear of it."""

    class OfRequest(msgspec.Struct):
        request_id: str

    request: OfRequest


# --- engine → front ----------------------------------------------------------------------------


class ErrorTold(msgspec.Struct, kw_only=True):
    """An error that crosses the boundary; ``wire_errors.py`` makes it one again."""

    name: str
    """Its class."""
    message: str
    fields: dict[str, Any] = {}
    """Its attributes, as far as they are text or numbers."""


class Ready(Message, tag="ready"):
    facts: dict[str, Any]
    described: dict[str, Any]
    """What the executor says of itself, for the trace's header."""
    gate: GateState


class StartFailed(Message, tag="start_failed"):
    error: ErrorTold


class Outputs(Message, tag="outputs"):
    outputs: EngineCoreOutputs


class Heartbeat(Message, tag="heartbeat"):
    """From a thread that only sends, so it comes while a step takes long or hangs."""

    step: int
    stalled_s: float
    """Seconds since the loop last moved, though it has work and the gate does not hold it."""


class GateMoved(Message, tag="gate_state"):
    state: GateState


class Facts(Message, tag="facts"):
    """They have changed, with a knob."""

    facts: dict[str, Any]


class Answer(Message, tag="answer"):
    call_id: int
    error: ErrorTold | None = None
    gate: GateState | None = None
    """How it stands after a verb."""


ToFront = Ready | StartFailed | Outputs | Heartbeat | GateMoved | Facts | Answer


# --- settings, on the process's standard input ---------------------------------------------------


class CoreSettings(msgspec.Struct, kw_only=True):
    """The first line that an engine process reads, as JSON. After it the pipe stays open and
    silent: its end means that the front end is gone."""

    config: dict[str, Any]
    """Flat, as ``make_config`` takes it."""
    directory: str
    """Where the sockets are."""
    index: int
    epoch: int
    lockstep: bool = False
    paused: bool = False
    rate: float = 0.0
    start_ns: int | None = None
    """When the traced run began; None: not traced."""
    executor: str | None = None
    tokenizer: str | None = None
    """``package.module:function``, called with the EngineConfig; None: the model's own. They come
    from whoever starts the engine, never from a request: they run code."""
    log_level: int = 20


def flat(config: EngineConfig) -> dict[str, Any]:
    """The configuration as ``make_config`` takes it. Raises ConfigError for a class."""
    values = {name: value for section in asdict(config).values() for name, value in section.items()}
    for name, value in values.items():
        if isinstance(value, type):
            allowed = "package.module.Class while engine_processes is on: a class cannot cross over"
            raise ConfigError(name, value, allowed)
    return values


# --- bytes ---------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_front = msgspec.msgpack.Decoder(ToFront)
_only_its_id = msgspec.msgpack.Decoder(OnlyItsId)


def encode(message: Message) -> bytes:
    """Stamps the message with the time."""
    message.sent_ns = time.perf_counter_ns()
    return _encoder.encode(message)


def decode_to_engine(frame: bytes) -> ToEngine:
    """Raises msgspec.MsgspecError."""
    return _to_engine.decode(frame)


def decode_to_front(frame: bytes) -> ToFront:
    """Raises msgspec.MsgspecError."""
    return _to_front.decode(frame)


def id_of_bad_request(frame: bytes) -> str | None:
    """Whose request this frame was to be, if that much can be read."""
    try:
        return _only_its_id.decode(frame).request.request_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def name_of(message: Message) -> str:
    """Its tag."""
    return str(message.__struct_config__.tag)
