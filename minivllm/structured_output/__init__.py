"""Structured output: a request whose text must follow a grammar.

In reading order:

    interface.py         what the engine asks of this room
    params.py            what a caller may ask for: JSON, a regex, a choice, a grammar
    limits.py            what is refused before anything is compiled
    backend_xgrammar.py  the library that parses, compiles and matches (extra ``[structured]``)
    compiler.py          compiling beside the engine: threads, a time limit, a cache
    manager.py           the engine core's side: whose grammar is ready

    request ─ limits ─ parse ─▶ queued, WAITING_FOR_GRAMMAR ─ compiled ─▶ WAITING ─▶ RUNNING
              └──── HTTP 400 ────┘   skipped, blocks nobody                each step: mask, sample,
                                                                           accept the token

Each request has a matcher of its own, a place in its grammar. Before a token is sampled the matcher
says which tokens may follow (a bit each), and the sampled one moves it on, once: a preempted
request keeps its matcher, since its output is computed again and not sampled again. So the mask
depends on the request's own tokens alone, and scheduling changes nothing.

Counterpart in vLLM: ``vllm/v1/structured_output/``. Left out: other backends (guidance, outlines,
lm-format-enforcer), structural tags, reasoning that precedes the structure, drafts under a grammar.
"""
