# House-keeping of vmalloc. Every goal works as the first command in a fresh clone: it makes the environment (.venv),
# installs what it needs, compiles the modules that pyproject.toml lists, and rebuilds only what has changed.
#
# Needs python3 >= 3.11 with venv, make, and a C compiler.   make PYTHON=python3.13 <goal>   chooses another Python.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Arguments for the command behind a goal: make run ARGS='replay --help', make test ARGS='-k tree'.
ARGS ?=

# Tests run side by side, a process per core: make test PARALLEL='-n 0' runs them one after the other, for a debugger.
PARALLEL ?= -n auto --dist worksteal

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The goals choose the build themselves; a VMALLOC_PURE left in the shell must not turn `make test` into half a test.
unexport VMALLOC_PURE

PXD      := $(shell find src -name '*.pxd')
SOURCES  := $(PXD) $(wildcard $(PXD:.pxd=.py)) $(shell find src -name '*.pyx')
BUILT    := $(VENV)/.stamp-built
HAS_DEPS := $(VENV)/.stamp-installed

.PHONY: help run fidelity experiments test pure-test campaign bench lint build clean
.DELETE_ON_ERROR:

help:
	@echo "make fidelity   how well every recording agrees   (ARGS='FOLDER', ARGS=--json)"
	@echo "make experiments   the numbers of docs/experiments.md   (ARGS='FOLDER --only lazy')"
	@echo "make run        run the vmalloc command   (ARGS='replay --help')"
	@echo "make test       test the compiled build, then what must be the same uncompiled   (ARGS='-k tree')"
	@echo "make pure-test  the whole suite uncompiled (slow)"
	@echo "make campaign   the long random searches, compiled (minutes to hours)"
	@echo "make bench      benchmarks; results in bench/out"
	@echo "make lint       ruff and mypy"
	@echo "make build      compile only"
	@echo "make clean      remove what was built, the environment included"

run: $(BUILT)
	@$(BIN)/vmalloc $(or $(ARGS),replay --open-loop)

test: $(BUILT)
	@echo "== tests, compiled"
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@echo "== tests, uncompiled: what must be the same on both builds"
	@VMALLOC_PURE=1 $(BIN)/python -m pytest $(PARALLEL) -m 'both_builds and not campaign' $(ARGS); \
	    status=$$?; \
	    $(if $(strip $(ARGS)),if [ $$status -eq 5 ]; then exit 0; fi;) \
	    exit $$status  # 5: ARGS chose tests that do not run on both builds

pure-test: $(BUILT)
	@echo "== tests, uncompiled: the whole suite"
	@VMALLOC_PURE=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

campaign: $(BUILT)
	@echo "== campaign, compiled"
	@HYPOTHESIS_PROFILE=campaign $(BIN)/python -m pytest $(PARALLEL) -m campaign $(ARGS)

bench: $(BUILT) $(VENV)/.stamp-bench
	@mkdir -p bench/out
	@$(BIN)/python -m pytest $(if $(filter bench/%,$(ARGS)),,bench) -W default --benchmark-columns=median,iqr,min,max,rounds \
	    --benchmark-json=bench/out/benchmark.json $(ARGS)

fidelity: $(BUILT)
	@$(BIN)/python bench/fidelity.py $(ARGS)

experiments: $(BUILT)
	@$(BIN)/python bench/experiments.py $(ARGS)

lint: $(BUILT) $(VENV)/.stamp-lint
	@echo "== ruff"
	@$(BIN)/ruff check .
	@echo "== mypy"
	@$(BIN)/mypy

build: $(BUILT)

clean:
	@rm -rf $(VENV) build dist src/*.egg-info bench/out .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find src -name '*.so' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# In three steps, so that an edit of one module compiles one module: environment, dependencies, extensions in place.

$(VENV)/.stamp-created:
	@$(PYTHON) -c '' 2>/dev/null || { echo "vmalloc: cannot run '$(PYTHON)'; install Python >= 3.11 or say make PYTHON=..."; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "vmalloc: needs Python >= 3.11, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1); say make PYTHON=python3.11 or newer"; \
	    exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "vmalloc: '$(PYTHON)' has no venv module; install it (Debian and Ubuntu: apt install python3-venv)"; \
	    exit 1; } >&2
	@echo "== making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(HAS_DEPS): $(VENV)/.stamp-created pyproject.toml setup.py
	@echo "== installing vmalloc and its test dependencies into $(VENV)"
	@VMALLOC_PURE=1 $(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(BUILT): $(HAS_DEPS) $(SOURCES)
	@echo "== compiling"
	@$(BIN)/python setup.py --quiet build_ext --inplace || { \
	    echo "vmalloc: the build failed, see above; if no compiler or no Python.h was found: install a C compiler and the" \
	        "headers of $$($(BIN)/python -V) (Debian and Ubuntu: apt install gcc python3-dev)"; \
	    exit 1; } >&2
	@touch $@

$(VENV)/.stamp-bench $(VENV)/.stamp-lint: $(VENV)/.stamp-%: $(HAS_DEPS)
	@echo "== installing what make $* needs"
	@VMALLOC_PURE=1 $(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
