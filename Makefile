# Everything from a fresh machine with nothing but python3: `make study`, `make test`, `make check`, `make bench`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= masking_ratio
# results/ holds the runs that this repository reports; yours go to a folder that git ignores.
OUT ?= runs
ARGS ?=

.PHONY: help setup study test test-slow check format bench lock clean

help:
	@echo "make setup                       virtual environment with the locked packages"
	@echo "make study [STUDY=masking_ratio] [OUT=runs] [ARGS='scale=cpu workers=2']   train what is missing, write"
	@echo "                                 OUT/ablations.sqlite, OUT/tables and OUT/figures"
	@echo "make test                        the default tests;  make test-slow: the heavy ones"
	@echo "make check                       format, lint, types, import rule, all tests (what CI runs)"
	@echo "make bench                       speed, beside named references"
	@echo "make lock                        resolve requirements.lock anew"

# The stamp is newer than the lock once the environment matches it. Bytecode is compiled now: where Python may not write
# it, every command would compile torch anew, for 2 s.
$(VENV)/.stamp: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

setup: $(VENV)/.stamp

study: setup
	$(BIN)/python -m sweeps.launch study=$(STUDY) db=sqlite:///$(OUT)/ablations.sqlite results_dir=$(OUT) $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: setup
	$(BIN)/python -m pytest -m slow -n 2

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test
	$(MAKE) test-slow

bench: setup
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python -m benchmarks.step all
	$(BIN)/python -m benchmarks.evals
	$(BIN)/python -m benchmarks.finetune

lock:
	$(BIN)/uv pip compile --quiet pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build *.egg-info
