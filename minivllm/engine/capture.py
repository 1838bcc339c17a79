"""TensorCapture: which steps hand their arrays to the trace, and what is told of it.

Every step at trace level ``tensors``; at any other level the steps that somebody has *armed*: a
viewer's lens on attention asks for one step to come and slows no other. Whether a step is captured
changes nothing that is decided or said in it. No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from minivllm.config import TraceConfig
from minivllm.core.scheduler_output import StepTensors
from minivllm.errors import ConfigError
from minivllm.trace import events as ev
from minivllm.trace.events import Reason
from minivllm.trace.tracer import Tracer

ArmedStep = int | Literal["next", "none"]
"""A step's number; the next that runs tokens; or ``none``: what was armed is called back."""

MAX_ARMED = 64
"""Steps that may be armed at once: about what is kept of a run without a file."""


class TensorCapture:
    """All but :meth:`check` on the engine's thread."""

    def __init__(self, config: TraceConfig, trace: Tracer) -> None:
        self._config, self._trace = config, trace
        self._always = config.level == "tensors" and trace.on
        self._next = False
        self._armed: set[int] = set()
        self._told_of_no_model = False

    def check(self, step: object, current_step: int) -> None:
        """Raises ConfigError for a step that cannot be armed."""
        if step == "none":
            return
        if not self._trace.on:
            raise ConfigError("arm", step, "a run that is traced: name a file with --trace")
        if self._config.redact:
            raise ConfigError("arm", step, "a run without redact: K and V are what was said")
        if not self._trace.keeps_tensors:
            raise ConfigError(
                "arm", step, "nothing more in this run: its limit, or the disk, is full"
            )
        if step == "next":
            return
        if not isinstance(step, int) or isinstance(step, bool) or step <= current_step:
            raise ConfigError(
                "arm", step, f"next, none, or the number of a step after {current_step}"
            )
        if len(self._armed) >= MAX_ARMED:
            raise ConfigError("arm", step, f"at most {MAX_ARMED} steps at once")

    def arm(self, step: ArmedStep, current_step: int) -> None:
        number = step if isinstance(step, int) else None
        self._trace.emit(ev.TraceArm, None, armed_step=number, called_back=step == "none")
        if not isinstance(step, int):
            self._next = step == "next"
            if step == "none":
                self._armed.clear()
        elif step <= current_step:  # it began while the wish was on its way here
            self.leave_out(Reason.STEP_PASSED)
        else:
            self._armed.add(step)

    def wants(self, step: int) -> bool:
        """Is this step, which is about to run tokens, to be captured?"""
        if not (self._always or self._next or self._armed):
            return False
        wanted = self._always or self._next or step in self._armed
        self._next = False
        self._armed = {number for number in self._armed if number > step}
        return wanted and self._trace.keeps_tensors

    def pass_over(self, step: int) -> None:
        """The step runs no token: who armed it by its number hears of it."""
        if step in self._armed:
            self._armed.discard(step)
            self.leave_out(Reason.NOTHING_RAN)

    def keep(self, tensors: StepTensors | None) -> None:
        """What the executor handed back for a captured step; None: it has no model."""
        if tensors is None:
            if not self._told_of_no_model:
                self.leave_out(Reason.NO_MODEL)
            self._told_of_no_model = True
            return
        if tensors.left_out:
            self.leave_out(Reason.TENSORS_LIMIT, tensors.left_out)
        self._trace.keep_tensors(tensors)

    def leave_out(self, reason: Reason, arrays: Sequence[tuple[str, int]] = ()) -> None:
        """Tell that these (name, bytes) are not kept, or nothing of the step."""
        self._trace.emit(
            ev.TraceLeftOut,
            None,
            reason=reason,
            arrays=[name for name, _ in arrays],
            need=sum(size for _, size in arrays),
            limit=self._config.tensors_limit if arrays else 0,
        )
