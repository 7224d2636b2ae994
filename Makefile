# `make demo` and `make test` need Python 3.11 or newer, a network for the first run, and nothing else.
# Everything is installed into .venv; a stamp file makes a second run quick while pyproject.toml,
# constraints.txt and .ci/networks.txt stay as they are.

VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.installed-package
DEV := $(VENV)/.installed-dev

# The machine's own python3 first, then the newer names; each must run and be able to make environments.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)

# Two PyTorch processes with two threads each slow each other sixtyfold on two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

# Where every kernel of this machine's libraries rounds otherwise, the random numbers are others and fits end elsewhere.
KERNEL ?= MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
OFFSET ?= 1
ELSEWHERE ?= tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo docs test format lint types pytest test-fast test-elsewhere wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1 - \2/p' Makefile

demo: $(PACKAGE)  ## fit the digits, print the result table and the path of the report
	$(BIN)/girsanov fit digits --out runs/digits --time-budget 280

docs: $(DEV)  ## build the site into build/docs; a warning is an error
	$(ONE_THREAD) $(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/docs
	@echo "the site: build/docs/index.html"

test: lint types pytest wheel  ## everything: format, lint, types, tests and doctests, the site, the built wheel

format: $(DEV)  ## rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV)  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV)  ## check types
	$(BIN)/pyright

pytest: $(DEV)  ## unit tests and doctests, the slow ones included
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist worksteal --durations 10

test-fast: $(DEV)  ## the same without the slow ones
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-elsewhere: $(DEV)  ## tests with other seeds and other rounding: OFFSET=1 KERNEL="MKL_CBWR=AVX2"
	$(ONE_THREAD) $(KERNEL) GIRSANOV_TEST_SEED_OFFSET=$(OFFSET) $(BIN)/pytest -n 2 --dist worksteal \
	-m "not slow and not pinned" $(ELSEWHERE)

wheel: $(DEV)  ## build the wheel, install it outside the source tree and run it from there
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation
	$(ONE_THREAD) $(BIN)/python .ci/check_wheel.py dist/*.whl

clean:  ## remove what builds and tests left; .venv and runs stay
	rm -rf build dist docs/project docs/reference/api .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# bin/pip comes last when an environment is made, so an interrupted one is made again.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "girsanov needs Python 3.11 or newer that can make virtual" \
	"environments (on Debian: apt-get install python3 python3-venv); this machine's python3 is:" \
	"$$(python3 --version 2>&1). Another one can be named: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Dependency groups need pip 25.1, which Python 3.11 and 3.12 do not bring along.
$(PACKAGE): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable .
	@touch $@

$(DEV): $(PACKAGE) .ci/networks.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	$(BIN)/python -m pip install --quiet --no-deps -r .ci/networks.txt
	@touch $@
