# Everything a newcomer types. Needs git, make and Python 3.10 to 3.14; nothing needs root.
# The work is done by minivllm/setup/bootstrap.py: it skips what an earlier run has done.

PYTHON ?=
export PYTHON
BOOTSTRAP := sh minivllm/setup/find_python.sh

.PHONY: help setup demo test lint format

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## .venv, the base package, the engine (torch ...) and the model (93 MB, checked)
	@$(BOOTSTRAP) setup

demo: ## open the dashboard on a recorded run; the live engine follows. ARGS="--port 8001"
	@$(BOOTSTRAP) demo $(ARGS)

test: ## set up, then run the tests. ARGS="tests/core -k preempt"
	@$(BOOTSTRAP) test $(ARGS)

lint: ## the style (ruff) and the types (mypy)
	@$(BOOTSTRAP) lint

format: ## let ruff rewrite the files in the house style
	@$(BOOTSTRAP) format
