# demo and test each make .venv, install what they need and run; nothing is installed again unless its list changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OUT ?= runs/demo

# Here a kernel that does not compile is an error, where an install falls back on the reference. Without a compiler: make UNROLLED_REQUIRE_NATIVE=0
export UNROLLED_REQUIRE_NATIVE ?= 1

.PHONY: demo test test-all check bench clean

demo: $(INSTALLED)
	$(BIN)/unrolled compare --out $(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or not slow"

# Without ruff's cache: whether an import is the project's own depends on which files there are, which the cache does not see.
check: $(INSTALLED)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --doctest-modules src/unrolled --ignore=src/unrolled/recurrence/gpu  # needs Triton

bench: .venv/.peers
	$(BIN)/unrolled bench
	$(BIN)/python benchmarks/drop_in.py
	$(BIN)/python benchmarks/looking_inside.py
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/viewer.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and by its exact version: a CPU build is chosen where the index offers one. What builds the kernels stands in .venv too, not in a
# folder of pip's that is new each time: a change to one source then compiles that one only. aeon is there for a file of data in it, and its own
# needs clash with newer versions of what stands here.
$(INSTALLED): pyproject.toml constraints.txt $(wildcard native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $$(grep -E '^(torch|scikit_build_core|cmake|ninja)==' constraints.txt)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt --no-deps aeon
	touch $@

# What `unrolled bench` compares with besides torch.
.venv/.peers: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt --no-build-isolation -e '.[dev,bench]'
	touch $@
