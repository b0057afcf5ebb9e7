# invtoolbox: `make` shows what there is. Everything runs in a virtual environment of its own, .venv.

PYTHON ?= python3
# What is installed beside the package: the tests' packages; `peers` adds those that some tests compare with.
EXTRAS ?= test
# Further options of pytest, for example: make test PYTEST="-x -k tomography"
PYTEST ?=
# Processes that share the tests, of one thread each; 0 for none, where a debugger is to stop in them.
WORKERS ?= 2

BIN := .venv/bin
comma := ,
STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all lint typecheck docs benchmarks wheel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make .venv and install the package and the tests' packages in it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'invtoolbox needs Python 3.11 or later: make PYTHON=python3.12'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP)  ## reconstruct a CT slice, sharpen a photograph, find what moves in a street; ends with tables and a report
	@$(BIN)/invtoolbox demo

test: $(STAMP)  ## run the tests, but for the slow ones and those that need a GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(PYTEST)

test-all: $(STAMP)  ## run the slow tests too
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu" $(PYTEST)

lint: $(STAMP)  ## look for style faults and for imports that run the wrong way
	$(BIN)/ruff check .
	$(BIN)/lint-imports

typecheck: $(STAMP)  ## check the types
	$(BIN)/mypy

docs:  ## build the documentation in build/site, with its gallery; a warning is an error
	@$(MAKE) --no-print-directory EXTRAS=test,docs venv
	$(BIN)/python -m mkdocs build --strict --quiet

benchmarks: $(STAMP)  ## run every script of benchmarks/; wants an idle machine, and EXTRAS=test,peers
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -1 dist/*.whl

clean:  ## remove .venv, caches and built files; results stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
