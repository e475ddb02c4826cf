# Every target does its own set-up: a virtual environment in .venv, torch where there is none, the build.
# An interpreter that already has torch >= 2.11 is used as it is: its packages are visible in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.fastconv-ready

.PHONY: help setup build test demo verify bench lint format cuda-check triton-check gpu-check mutants clean

help:
	@echo "make demo        real photos through torch and fastconv, an HTML report in fastconv-demo/"
	@echo "make test        build and run the test suite"
	@echo "make verify      every kernel against the reference (exit code for CI)"
	@echo "make bench       layers and networks against torch, results in bench/results/"
	@echo "make lint        ruff, mypy, clang-format"
	@echo "make cuda-check  compile the CUDA kernels with nvcc: registers, spills, instructions"
	@echo "make triton-check compile the Triton kernels without a GPU: registers, stack, shared memory"
	@echo "make gpu-check   on a machine with a GPU: build, verify, sanitize, measure, test; needs no network"
	@echo "make mutants     breaks the kernels in small ways; prints how many breakages the verification notices"
	@echo "make build       development build in place"
	@echo "make clean       remove build products and the virtual environment"

$(STAMP): pyproject.toml buildtools/bootstrap.py
	$(PYTHON) buildtools/bootstrap.py $(VENV)
	@touch $@

setup: $(STAMP)

build: $(STAMP)
	$(BIN)/python setup.py build_ext --inplace

test: build
	$(BIN)/python -m pytest tests -q -n auto --dist worksteal

demo: build
	$(BIN)/python -m fastconv demo --output fastconv-demo

verify: build
	$(BIN)/python -m fastconv verify

bench: build
	$(BIN)/python -m fastconv bench --suite layers
	$(BIN)/python -m fastconv bench --suite networks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastconv
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

cuda-check: $(STAMP)
	$(BIN)/python -m buildtools.cuda_check

mutants: build
	$(BIN)/python -m buildtools.mutation

triton-check: $(STAMP)
	$(BIN)/python -m buildtools.triton_check

# No virtual environment: such a machine may have no network, and its own Python has torch and CUDA.
gpu-check:
	$(PYTHON) -m buildtools.gpu_check

clean:
	rm -rf build dist *.egg-info $(VENV) fastconv/*.so fastconv-demo fastconv-results
