# Every command of a working day. Each is safe from a bare clone: what it needs, it makes first.
#
#   make demo       build the demo database and ask it five questions
#   make test       C++ and Python tests, a few minutes; make test-long adds the long ones
#   make torture    kills, power cuts, damage, fuzzing, leaks, planted bugs: some minutes; PART='kills --kills 1000' for one at length
#   make coverage   branch coverage of the storage and the filter parsers, which must stay at 95 % or more
#   make sanitize   the C++ tests under the address, undefined-behaviour and thread sanitizers
#   make lint       formatting, lint, types, import contracts, clang-format, clang-tidy, spelling
#   make check      test and lint: what CI runs
#   make format     rewrite the sources in the project's format
#   make bench      recall, speed, memory and insert rate; DATA=folder or .hdf5, BENCH_ARGS='--passes 9' and more
#   make bench-all  that and every other benchmark, some minutes; docs/performance.md says what each is for
#   make micro      single building blocks of the core beside the plain way of doing the same
#   make profile    where time and memory go: docs/profiling.md; PROFILE='flamegraph' for one part, KIND=build|search|calls|write, DATA=folder
#   make clean      remove what was built; the sources stay
#
# Needed beforehand: Python 3.11 or newer, a C++20 compiler, CMake 3.22 or newer.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

BIN := $(VENV)/bin
BUILD := build/dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE_SOURCES := CMakeLists.txt $(shell find native -name '*.cpp' -o -name '*.hpp' 2>/dev/null)
CXX_FILES = $(shell git ls-files 'native/*.cpp' 'native/*.hpp')
TIDY_FILES = $(shell git ls-files 'native/src/*.cpp' 'native/bindings/*.cpp')
PYTEST_ARGS ?=
PART ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-native torture coverage sanitize lint format bench bench-all micro profile check clean

help:
	@sed -n 's/^#   make/  make/p' Makefile

setup: $(VENV)/.built

# The tools and dependencies: again only when pyproject.toml changes.
$(VENV)/.tools: pyproject.toml
	@echo "setup: tools and dependencies into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --group dev 'scikit-build-core>=1.1' 'nanobind>=3.1'
	@command -v cmake >/dev/null || $(PIP) install 'cmake>=3.22'
	@touch $@

# The package with its extension, editable: again only when native sources change.
$(VENV)/.built: $(VENV)/.tools $(NATIVE_SOURCES)
	@echo "setup: building the extension"
	@PATH="$(abspath $(BIN)):$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) install --no-build-isolation \
	  -C build-dir=$(BUILD) -C cmake.define.CMAKE_EXPORT_COMPILE_COMMANDS=ON --editable '.[arrow,backup,demo,grpc,jwt,otel,server]'
	@touch $@

demo: setup
	@$(BIN)/vicinal demo

# The C++ tests share the build tree, hence the library, of the extension.
test-native: setup
	@if ls native/tests/test_*.cpp >/dev/null 2>&1; then \
	  PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(BUILD) -DVICINAL_TESTS=ON >/dev/null && \
	  PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD) -j $(JOBS) && \
	  ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS); \
	fi

# Many tests wait for processes of theirs, so that two at a time take little more than half of the time.
TEST_JOBS ?= $(JOBS)
PYTEST = $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

test: test-native
	@$(PYTEST) $(PYTEST_ARGS)

test-long: test-native
	@VICINAL_RANDOM=1 $(PYTEST) -m '' $(PYTEST_ARGS)

# Without the tests that kill processes: what those run is not measured.
COVERAGE_TESTS = $(wildcard tests/unit/test_storage_*.py tests/unit/test_filter_*.py tests/fault/test_storage_*.py) \
  $(addprefix tests/,unit/test_bundle.py unit/test_replay.py unit/test_scroll.py unit/test_combining.py unit/test_memory.py \
  fault/test_isolation.py fault/test_degraded.py fault/test_full_disk.py e2e/test_backup.py)

coverage: setup
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -m 'not long' $(COVERAGE_TESTS)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

torture: setup
	@$(BIN)/python tests/torture $(PART)

sanitize: $(VENV)/.tools
	@PATH="$(abspath $(BIN)):$$PATH" JOBS=$(JOBS) tools/sanitize.sh

lint: setup
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright -p tests
	@$(BIN)/lint-imports
	@$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	@echo "clang-tidy on $(words $(TIDY_FILES)) files"
	@printf '%s\n' $(TIDY_FILES) | xargs -P $(JOBS) -n 1 $(BIN)/clang-tidy -p $(BUILD) --quiet 2>$(BUILD)/clang-tidy.log \
	  || { cat $(BUILD)/clang-tidy.log; exit 1; }
	@$(BIN)/codespell $$(git ls-files | grep -v -e '^LICENSE$$')
	@echo "lint: clean"

format: setup
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CXX_FILES)

# What benchmarks need besides: rivals to compare with, HDF5, plots.
$(VENV)/.bench: $(VENV)/.tools
	@$(PIP) install --group bench
	@touch $@

bench: setup $(VENV)/.bench
	@$(BIN)/python -m bench run $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

bench-all: bench
	@for command in kernels workload 'churn --target index' 'churn --target collection' filters; do \
	  echo "== $$command"; data='$(if $(DATA),--data $(DATA))'; \
	  test "$$command" != kernels || data=; \
	  $(BIN)/python -m bench $$command $$data || exit 1; \
	done
	@echo "== bench_calls"; $(BIN)/python bench/bench_calls.py

micro: setup
	@$(BIN)/python -m bench micro $(BENCH_ARGS)

PROFILE ?= all
profile: setup
	@PYTHON="$(abspath $(BIN))/python" DATA="$(DATA)" JOBS=$(JOBS) tools/profile.sh $(PROFILE)

check: test lint

clean:
	rm -rf $(VENV) build dist vicinal-demo.db .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
