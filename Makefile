# `make demo` and `make test` need nothing but a Python 3.10 or newer; each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DATA ?= digits
OUT ?= out
THREADS ?= 1
RUN = OMP_NUM_THREADS=$(THREADS) $(BIN)/python

.PHONY: demo test lint format bench clean

demo: $(VENV)/.demo
	$(RUN) examples/quickstart.py --data $(DATA) --out $(OUT)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.test
	$(BIN)/ruff check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info

# torch first and by itself: the pinned version has a CPU build where one is offered.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("pyro_dgm needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[datasets]'
	touch $@

$(VENV)/.test: $(VENV)/.torch setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.torch setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@
