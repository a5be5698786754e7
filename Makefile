# Every target does its own set-up: a fresh machine needs Python ≥ 3.11 and make, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STUDY ?= quick
OUT ?= out/study

.PHONY: help env study test test-all lint bench clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## create .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "tiltsim needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m analysis
	touch $@

study: env ## the main job: crystal to report, into out/study (STUDY=full for the long one)
	$(BIN)/tiltsim study $(STUDY) --out $(OUT)

lint: env ## style, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## everything that must hold, in minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: lint ## and the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: env ## every benchmark, JSON into out/benchmarks
	mkdir -p out/benchmarks
	for script in benchmarks/[a-z]*.py; do \
	  $(BIN)/python $$script --json out/benchmarks/$$(basename $$script .py).json || exit 1; done

clean: ## remove the environment and results
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
