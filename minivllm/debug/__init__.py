"""A debugger for an inference engine, from Python: step it, ask it, stop in the middle of its code.

    from minivllm import LLM, debug

    with LLM(live=True, num_kv_blocks=16) as llm, debug.Stepper(llm) as s:
        s.submit("Once upon a time")
        s.until(lambda event: event.kind == "req.preempt")
        s.state.requests["r3"]

    debug.set_trace()     in a scheduler of one's own: opens the debugger where the engine stands

The same verbs in the terminal: ``minivllm step``. Nothing here imports torch. No counterpart in
vLLM.
"""

from minivllm.debug.hook import set_trace
from minivllm.debug.shown import Answer, Board
from minivllm.debug.stepper import Stepper

__all__ = ["Answer", "Board", "Stepper", "set_trace"]
