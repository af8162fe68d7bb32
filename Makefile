# `make demo` and `make test` set everything up on a fresh machine, then do their job.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow lint benchmark reproductions clean

demo: $(READY)
	$(BIN)/lesionflow demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(READY)
	$(BIN)/pytest -m slow --timeout 900

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(READY)
	$(BIN)/python benchmarks/localize.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/orchestration.py

reproductions: $(READY)
	$(BIN)/python -m tasks.reproduction.document

# A plain venv and pip with a constraints file: the one way that takes a CPU build of torch where there is one
# and the CUDA build elsewhere (docs/decisions/install.md).
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv .lesionflow
