# make demo and make test set up .venv first. PYTHON names another interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: setup demo test test-all lint docs bench clean

setup: .venv/.ok

.venv/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "worldmodel needs Python 3.11 or newer; $(PYTHON) is older. Set PYTHON=/path/to/python3.11."; exit 2; }
	@echo "Setting up .venv (some 65 packages, one or two minutes; torch is the largest) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/.ok
	$(BIN)/worldmodel demo --out $(OUT)

# Modules are compiled once, not in each of the processes that the tests start.
test: .venv/.ok
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: .venv/.ok
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 1800

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages in docs/, without warnings; the first run installs Sphinx into .venv.
.venv/.docs: .venv/.ok
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: .venv/.docs
	$(BIN)/sphinx-build -E -W --keep-going --quiet docs docs/_build/html
	@echo "The pages are in docs/_build/html/index.html."

bench: .venv/.ok
	$(BIN)/worldmodel bench loader --out results/bench-loader.json
	$(BIN)/worldmodel bench collect --out results/bench-collect.json
	$(BIN)/worldmodel bench tokenizer --out results/bench-tokenizer.json
	$(BIN)/worldmodel bench prior --out results/bench-prior.json
	$(BIN)/worldmodel bench dream --out results/bench-dream.json

clean:
	rm -rf .venv build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
