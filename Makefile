# Everything from a fresh machine with nothing but python3: `make study`, `make report`, `make test`,
# `make check`, `make bench`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= masking_ratio
# results/ holds the runs that this repository reports; yours go to a folder that git ignores.
OUT ?= runs
# auto trains rows' seeds and lengths together: fewer processor seconds, and numbers that are the reported ones to rounding
# only, which a thousand steps carry far.
STACK ?= 1
ARGS ?=
# Neighbours stay in one process, and share what their fixtures make, until the other process has nothing left to do.
AT_ONCE := -n 2 --dist worksteal

.PHONY: help setup study report test test-slow check format bench lock clean

help:
	@echo "make setup                       virtual environment with the locked packages"
	@echo "make study [STUDY=masking_ratio] [OUT=runs] [STACK=1|auto] [ARGS='scale=cpu workers=2']   train what is missing,"
	@echo "                                 write OUT/ablations.sqlite, OUT/tables and OUT/figures"
	@echo "make report [OUT=results] [ARGS='study=masking_ratio']   the site of OUT's database, a page a study and a run:"
	@echo "                                 OUT/report/index.html, and every table and figure beside it"
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
	$(BIN)/python -m sweeps.launch study=$(STUDY) db=sqlite:///$(OUT)/ablations.sqlite results_dir=$(OUT) \
		stack=$(STACK) $(ARGS)

# Of the runs that this repository reports, where OUT is not given: git keeps their tables and figures, not their pages.
report: OUT = results
report: setup
	$(BIN)/python -m analysis.report db=sqlite:///$(OUT)/ablations.sqlite results_dir=$(OUT) $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not slow" $(AT_ONCE)

# Three: they wait for servers and for what was killed a third of their time.
test-slow: setup
	$(BIN)/python -m pytest -m slow $(AT_ONCE) -n 3

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
	$(BIN)/python -m benchmarks.masks
	$(BIN)/python -m benchmarks.step all
	$(BIN)/python -m benchmarks.evals
	$(BIN)/python -m benchmarks.finetune

lock:
	$(BIN)/uv pip compile --quiet pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build *.egg-info
