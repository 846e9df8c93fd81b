# Only Python 3.11+, make and git are assumed; every target installs what it needs first.

PYTHON ?= python3
BENCH ?= all
DEMO_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PACKAGES := protocol packages/hub packages/model-manager packages/auto-discovery packages/state-persistence \
            packages/performance-monitor packages/cli
EDITABLE := $(addprefix -e ./,$(PACKAGES))
VERSIONS := $(wildcard protocol/src/*/__init__.py packages/*/src/*/__init__.py)
PYPROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(PACKAGES))

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup engine demo test test-all bench lint format constraints bundles clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## Everything into .venv, at the pinned versions, with compiled bytecode

# uv itself is installed by pip at the version and hash of constraints.txt. Where the package index is known to
# pip's configuration only, uv cannot resolve, and pip does the same work more slowly.
$(STAMP): constraints.txt $(PYPROJECTS) $(VERSIONS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1 || true); Python 3.11 or newer is needed." \
	       "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no ensurepip, so it cannot make a virtual environment." \
	       "On Debian and Ubuntu: sudo apt install python3-venv. Then run make again." >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r constraints.txt \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(EDITABLE)
	@$(BIN)/python -m compileall -q $(addsuffix /src,$(PACKAGES))
	@touch $@

engine: setup ## vLLM in its own environment (CUDA or CPU, by what the machine has)
	$(BIN)/vllm-mcp engine install

demo: setup ## Load, chat, list and unload on a real engine
	@$(BIN)/vllm-mcp demo $(DEMO_ARGS)

test: lint engine ## Lint, types, and the everyday test suite on fake and real engines
	$(BIN)/pytest $(PYTEST_ARGS)

test-all: lint engine ## The same, with the slow tests
	$(BIN)/pytest --run-slow $(PYTEST_ARGS)

bench: setup $(if $(filter all engine,$(BENCH)),engine) ## BENCH=start|hub|load|engine|discovery|metrics|monitor|all: a table, and .bench/results.json
	@$(BIN)/python -m tests.bench $(BENCH)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Rewrite the sources the way lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolved for every platform and Python from 3.11 on; hashes, but neither registry addresses nor paths.
constraints: setup ## Resolve the pins anew into constraints.txt
	@$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --upgrade \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --no-emit-package vllm-mcp-protocol --no-emit-package vllm-mcp-hub \
	  --no-emit-package vllm-model-manager --no-emit-package vllm-auto-discovery \
	  --no-emit-package vllm-state-persistence --no-emit-package vllm-performance-monitor --no-emit-package vllm-mcp \
	  --group dev $(addsuffix /pyproject.toml,$(PACKAGES)) --output-file $(VENV)/constraints.txt
	@{ sed -n '/^#/p;/^[^#]/q' constraints.txt; echo; cat $(VENV)/constraints.txt; } > $(VENV)/constraints.new
	@mv $(VENV)/constraints.new constraints.txt

bundles: setup ## Write bundles/ and mcp-vllm-integration.json from the servers' descriptions
	@$(BIN)/python -m vllm_mcp.bundles

clean: ## Remove .venv, caches and benchmark results; engines and models stay
	rm -rf $(VENV) .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
