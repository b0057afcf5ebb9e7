# invtoolbox: `make` lists the targets. Everything runs in a virtual environment of its own, .venv.

PYTHON ?= python3
# Extras that are installed with the package: `test`; `peers` adds the packages that some tests compare with.
EXTRAS ?= test
# Further options of pytest, for example: make test PYTEST="-x -k tomography"
PYTEST ?=
# Number of processes of one thread each that share the tests; 0 runs them in one process, for a debugger.
WORKERS ?= 2
# Code paths of MKL and torch under which `make test-bits` runs the tests; `plain` is the processor's own.
PATHS ?= plain MKL_CBWR=AVX2 MKL_CBWR=AVX512 MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2
# Interpreters of `make test-oldest` and `make test-newest`.
OLDEST ?= python3.11
NEWEST ?= python3.13

BIN := .venv/bin
comma := ,
STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-bits test-oldest test-newest gpu lint format typecheck docs benchmarks wheel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv with the package and the packages of the tests

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'invtoolbox needs Python 3.11 or later: make PYTHON=python3.12'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP)  ## reconstruct a CT slice, sharpen a photograph, estimate the scene flow of a street; writes a report
	@$(BIN)/invtoolbox demo

test: $(STAMP)  ## run the tests, except the slow ones and those that need a GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(PYTEST)

test-all: $(STAMP)  ## run the slow tests too
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu" $(PYTEST)

test-bits: $(STAMP)  ## run the tests under six code paths of MKL and torch: the processor may not decide
	@for path in $(PATHS); do \
	  echo "== $$path"; \
	  env $${path#plain} $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(PYTEST) \
	    || failed="$$failed $$path"; \
	done; \
	test -z "$$failed" || { echo "failed under:$$failed"; exit 1; }

test-oldest:  ## run the tests on the oldest versions of pyproject.toml (OLDEST, a Python 3.11), needs the network
	@mkdir -p build && $(PYTHON) tests/oldest.py > build/oldest.txt
	@test -x .venv-oldest/bin/python || $(OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable ".[test]" --constraint build/oldest.txt
	.venv-oldest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(PYTEST)

test-newest:  ## run the tests on the newest versions (NEWEST, a Python 3.13 or 3.14), needs the network
	@test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]"
	.venv-newest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(PYTEST)

gpu: $(STAMP)  ## measure every job on the GPU in ten minutes, or run it on an emulated one; writes benchmarks/results/gpu/
	@$(BIN)/python benchmarks/gpu.py

lint: $(STAMP)  ## check the style, and that imports run one way
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: $(STAMP)  ## format Python and the C++ of the kernels
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	git ls-files 'invtoolbox/kernels/*.cpp' 'invtoolbox/kernels/*.h' | xargs -r $(BIN)/clang-format -i

typecheck: $(STAMP)  ## check the types
	$(BIN)/mypy

docs:  ## build the documentation in build/site, with its gallery; a warning is an error
	@$(MAKE) --no-print-directory EXTRAS=test,docs venv
	$(BIN)/python -m mkdocs build --strict --quiet

benchmarks: $(STAMP)  ## run every script of benchmarks/; needs an idle machine, and EXTRAS=test,peers
	@for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -1 dist/*.whl

clean:  ## remove .venv, caches and built files; results stay
	rm -rf .venv .venv-oldest .venv-newest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
