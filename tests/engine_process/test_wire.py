"""The wire: typed, closed, and never pickle."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import minivllm
from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine import wire
from minivllm.engine.messages import EngineCoreOutput, EngineCoreOutputs
from minivllm.engine.wire_errors import made_anew, told
from minivllm.errors import ConfigError, EngineStartError, StructuredOutputError
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.code import HeldCode
from minivllm.trace.events import Reason
from minivllm.trace.gate_control import GateState
from tests.engine_process.helpers import request

CODE = HeldCode(file="mine.py", line=8, function="f", first_line=7, text="", locals={"x": "1"})
STATE = GateState(
    mode="pause", rate=2.0, revision=7, held_at="event", held_event=b"{}", held_code=CODE
)
TO_ENGINE = [
    wire.Add(
        request=request(
            "a",
            logit_bias={7: 1.5},
            seed=2**63 - 1,
            stop=["é"],
            structured_outputs=StructuredOutputsParams(json={"type": "object"}),
        )
    ),
    wire.Abort(request_ids=["a", "b"], why=Reason.STOP_STRING),
    wire.SetKnobs(knobs={"max_num_seqs": 3, "policy": "fcfs", "watermark": 0.5}, call_id=4),
    wire.Arm(step="next", call_id=1),
    wire.Arm(step=12, call_id=2),
    wire.ResetPrefixCache(),
    wire.GateVerb(verb="until", call_id=3, value="finish r4"),
    wire.Taken(num_taken=5),
    wire.Shutdown(),
]
TO_FRONT = [
    wire.Ready(facts={"num_kv_blocks": 4}, described={"model": "m"}, gate=STATE),
    wire.StartFailed(error=wire.ErrorTold(name="ConfigError", message="x", fields={"given": 1})),
    wire.Outputs(
        outputs=EngineCoreOutputs(
            step=3,
            outputs=[
                EngineCoreOutput(
                    request_id="a",
                    new_token_ids=[1, 2],
                    new_logprobs=[TokenLogprobs(1, -float("inf"), 9, [(1, -0.5)])],
                    stop_reason=7,
                )
            ],
        )
    ),
    wire.Heartbeat(step=2, stalled_s=0.5),
    wire.GateMoved(state=STATE),
    wire.Facts(facts={}),
    wire.Answer(call_id=1, gate=STATE),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=wire.name_of)
def test_what_goes_to_the_engine_comes_as_it_was_sent(message: wire.Message) -> None:
    assert wire.decode_to_engine(wire.encode(message)) == message and message.sent_ns


@pytest.mark.parametrize("message", TO_FRONT, ids=wire.name_of)
def test_what_comes_from_the_engine_comes_as_it_was_sent(message: wire.Message) -> None:
    assert wire.decode_to_front(wire.encode(message)) == message and message.sent_ns


def test_neither_side_takes_the_others_messages() -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_engine(wire.encode(TO_FRONT[0]))
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_front(wire.encode(TO_ENGINE[0]))


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("block_size", 0, "1 to 1024"),
        StructuredOutputError("regex", "one that compiles"),
        FileNotFoundError("no model here"),
        MemoryError("too much"),
    ],
)
def test_a_named_error_is_the_same_on_the_other_side(error: Exception) -> None:
    again = made_anew(told(error), EngineStartError)
    assert type(again) is type(error) and str(again) == str(error)
    assert {n: str(v) for n, v in vars(again).items()} == {
        n: str(v) for n, v in vars(error).items()
    }


def test_an_error_of_a_student_s_kind_is_told_as_the_kind_it_is_of() -> None:
    class Special(ConfigError):
        pass

    assert type(made_anew(told(Special("a", 1, "2")), EngineStartError)) is ConfigError


@pytest.mark.parametrize("name", ["KeyError", "SystemExit", "MiniVLLMError.__init__", "eval"])
def test_any_other_name_makes_nothing_of_that_name(name: str) -> None:
    error = wire.ErrorTold(name=name, message="m", fields={"__class__": 1})
    made = made_anew(error, EngineStartError)
    assert type(made) is EngineStartError and "its log says more" in str(made)


def test_nothing_here_imports_pickle_or_asks_a_socket_for_it() -> None:
    """Whoever can write to such a socket could run code: several advisories tell of it."""
    modules = "pickle|marshal|shelve|dill|cloudpickle|multiprocessing"
    imports = rf"^\s*(import|from) +({modules})\b|(recv|send)_(pyobj|json|serialized)"
    package = Path(minivllm.__file__).parent
    found = [
        f"{path}: {match[0]}"
        for path in [*package.rglob("*.py"), *(package.parent / "viz").rglob("*.py")]
        for match in re.finditer(imports, path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert found == []
