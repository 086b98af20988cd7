# demo and test each make .venv, install what they need and run; nothing is installed again unless its list changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OUT ?= runs/demo

.PHONY: demo test test-all check bench clean

demo: $(INSTALLED)
	$(BIN)/unrolled compare --out $(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --doctest-modules src/unrolled

bench: $(INSTALLED)
	$(BIN)/python benchmarks/layers.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and by its exact version: a CPU build is chosen where the index offers one.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
