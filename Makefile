# `make demo` and `make test` work on a fresh machine; each makes .venv if it is missing and installs what it needs.

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif
STAMP = $(BIN)/python -c "import pathlib, sys; [pathlib.Path(name).touch() for name in sys.argv[1:]]"
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow peers check lint types imports format bench clean

demo: .venv/.train  ## train, evaluate, predict and verify on real handwritten digits
	$(BIN)/resnetv2 demo

test: .venv/.dev  ## the default tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: .venv/.dev  ## every test
	$(BIN)/python -m pytest -m "slow or not slow"

peers: .venv-peers/.peers  ## compare with the publishers' own packages; a quarter of an hour, and TensorFlow to install
	KERAS_BACKEND=torch .venv-peers/bin/python -m pytest -m peers -rs

check: lint types imports test  ## everything a change must pass

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

format: .venv/.dev  ## rewrite the code in the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/.dev  ## the figures of BENCHMARKS.md
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/train_memory.py
	$(BIN)/python benchmarks/convert_speed.py
	$(BIN)/python benchmarks/check_speed.py
	$(BIN)/python benchmarks/load_speed.py
	$(BIN)/python benchmarks/checkpoint_cost.py
	$(BIN)/python benchmarks/run_costs.py
	$(BIN)/python benchmarks/evaluate_speed.py

clean:
	$(PYTHON) -c "import shutil; shutil.rmtree('.venv')"

.venv/.venv:
	$(PYTHON) -m venv .venv
	$(STAMP) $@

.venv/.train: .venv/.venv pyproject.toml constraints.txt
	$(INSTALL) --editable ".[train]"
	$(STAMP) $@

.venv-peers/.peers: pyproject.toml constraints.txt  # an environment of its own: TensorFlow is large, and needed here alone
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev,peers]"
	touch $@

.venv/.dev: .venv/.venv pyproject.toml constraints.txt
	$(INSTALL) --editable ".[all,dev]"
	$(STAMP) $@ .venv/.train
