# make demo: train a small study on the shipped sample and open its report.  make test: all tests.
# Both do all the set-up themselves, on a machine with python3 (3.11 or newer) and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# pip would compile all modules one after the other
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0

.PHONY: demo test lint format types docs clean

demo: $(VENV)/.installed
	$(BIN)/forcelaw run studies/quickstart.yaml --device cpu

test: $(VENV)/.tested
	@$(COMPILE) src  # else every process that tests start does it, where Python may not keep what it compiles
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.tested
	$(BIN)/mypy

docs: $(VENV)/.documented
	$(THREADS) $(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "forcelaw needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@# Debian keeps ensurepip in python3-venv; virtualenv does without it
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv && PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && rm -rf $(VENV)-bootstrap; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up: installing what forcelaw needs into $(VENV)"
	@$(PIP) torch
	@$(PIP) --editable '.[train,report]'
	@$(COMPILE) $(VENV) || true  # some files of packages are templates
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(PIP) --editable '.[test]'
	@$(COMPILE) $(VENV) || true
	@touch $@

$(VENV)/.documented: $(VENV)/.installed
	@$(PIP) --editable '.[docs]'
	@$(COMPILE) $(VENV) || true
	@touch $@

clean:
	rm -rf $(VENV) out build docs/_build .pytest_cache .ruff_cache .mypy_cache
