PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# One thread per worker: two trainings at once get further than one with two threads.
PARALLEL := OMP_NUM_THREADS=1
# Where it is set, each of the many processes of the tests compiles all of the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: evals test check bench format

evals: $(INSTALLED)
	$(BIN)/pytest evals/

test: $(INSTALLED)
	$(PARALLEL) $(BIN)/pytest tests/ -n 4 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/banking77.py
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/gate_sessions.py
	$(BIN)/python benchmarks/replies.py
	$(BIN)/python benchmarks/local.py
	$(BIN)/python benchmarks/judge.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/fuzz_lines.py
	$(BIN)/python benchmarks/fuzz_settings.py
	$(BIN)/python benchmarks/fuzz_services.py
	$(BIN)/python benchmarks/fuzz_stores.py
	$(BIN)/python benchmarks/kills.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	touch $(INSTALLED)
