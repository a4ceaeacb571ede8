PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: evals test slow check bench format

evals: $(INSTALLED)
	$(BIN)/pytest evals/

test: $(INSTALLED)
	$(BIN)/pytest tests/ -m "not slow"

slow: $(INSTALLED)
	$(BIN)/pytest tests/ -m slow

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/banking77.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	touch $(INSTALLED)
