# make demo    set up, then run the main job on the built-in model (resumes, or says it is finished)
# make test    set up, then lint, types, import rules, and the fast tests
# make test-all  the slow tests as well
# make families  every method on a tiny model of every architecture, as a table

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# The CPU build of torch, so that no CUDA package is ever pulled in. On Linux it is found in a local
# wheel folder (PIP_FIND_LINKS) or at PyTorch's index for CPU wheels: make demo TORCH_INDEX=URL.
# With a GPU: make demo TORCH=torch
ifeq ($(shell uname -s),Linux)
TORCH ?= torch==2.13.0+cpu
else
TORCH ?= torch==2.13.0
endif
TORCH_INDEX ?=
# Every stage of a trial is a process of its own: without bytecode each would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help setup demo test fast test-all families lint format clean

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-compile "$(TORCH)" $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) || \
	  { echo "No CPU build of torch was found. Give its index: make demo TORCH_INDEX=<PyTorch's CPU wheel index>"; exit 1; }
	$(PIP) install -q --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/paredown run --config examples/demo.yaml --experiment-name demo --resume

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/catalogues.py --check

# Side by side: the longest part of lint (types) uses one core.
test: setup
	$(MAKE) -j 2 lint fast

fast: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

test-all: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not gpu and not network"

families: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -W ignore -m paredown.testing.families --reasons

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
