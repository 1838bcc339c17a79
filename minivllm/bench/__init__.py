"""Benchmarks that are kept: what they measure is claimed somewhere, and this is the proof.

    kv_waste.py      what of the KV memory holds tokens, under four ways of handing it out
    scheduling.py    what one call of the scheduler costs, by batch and by pool
    tracing.py       what the trace costs: off, and at level ``structure``
    compare.py       how fast minivllm is beside transformers, vLLM and llama.cpp (and ``peers/``)
    profile.py       where the time of a step goes (and ``timers.py``)
    serve.py         how fast a server is, seen from outside (and ``serve_*.py``)

``minivllm bench`` prints them. Times are those of this machine: where two things are compared, they
take turns in one process, and the ratio is what counts.
"""
