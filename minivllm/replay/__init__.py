"""Running a trace again: to prove that it tells the truth, or with a knob changed from a step on.

A run is determined by its inputs: the knobs (``run.config``), the messages that the core consumed
and the step at which it did (``core.input``), and what the model said (``sample``) or where it
failed (``run.error``, ``req.error``). All of it is in the trace, so a trace can be run again on the
real scheduler and pool, without a model, anywhere, in moments.

    recording.py    one engine's stream, taken apart into those inputs
    executors.py    what stands in the model's place
    grammars.py     what stands in the grammar compiler's
    verify.py       again, and the same? the first event that is not
    fork.py         again, with other knobs
    model.py        again, with the model as well (``--tokens recompute``)

vLLM has no counterpart.
"""
