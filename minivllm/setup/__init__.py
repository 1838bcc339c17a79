"""Set-up: from a fresh clone to a running engine, in stages that each say how they fare.

``bootstrap`` makes ``.venv`` and installs the base package (stage 1) and the engine's packages
(stage 2); ``minivllm.models.source`` fetches the model (stage 3). ``progress`` holds the states in
between for whoever shows them. All of it runs on the standard library alone. No counterpart in
vLLM, which is installed as one wheel.
"""
