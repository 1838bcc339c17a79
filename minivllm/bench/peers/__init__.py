"""One script for each engine that ``bench compare`` measures, run by that engine's own Python.

They import nothing of minivllm (but ``run_minivllm.py``), since a peer's environment does not have
it. ``turns.py`` is what they share: a JSON line in, a JSON line out.
"""
