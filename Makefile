# `make demo` and `make test` work on a fresh machine; each makes .venv if it is missing and installs what it needs.

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow check lint types imports format bench clean

demo: .venv/.train  ## train, evaluate, predict and verify on real handwritten digits
	$(BIN)/resnetv2 demo

test: .venv/.dev  ## the default tests
	$(BIN)/python -m pytest

test-slow: .venv/.dev  ## every test
	$(BIN)/python -m pytest -m "slow or not slow"

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

clean:
	rm -rf .venv

.venv/.venv:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.train: .venv/.venv pyproject.toml constraints.txt
	$(INSTALL) --editable ".[train]"
	touch $@

.venv/.dev: .venv/.venv pyproject.toml constraints.txt
	$(INSTALL) --editable ".[all,dev]"
	touch $@ .venv/.train
