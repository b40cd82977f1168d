PYTHON ?= python3
CPP_FILES = $(shell find csrc examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help build test test-full mutants test-torch test-triton test-clients bench chip lint format

SEED ?= 7
OUT ?= build/chip
SECONDS ?= 600
ARCHIVE ?= $(OUT)/chip.tar.gz

help:
	@echo "make build      install alexkern from this tree, with the tools of a developer"
	@echo "make test       the quick tests"
	@echo "make test-full  all of them, in an order drawn by SEED=7"
	@echo "make mutants N=50 SEED=1       plants N slips one by one, and names those that the tests let pass"
	@echo "make test-torch TORCH=2.13.0   the quick tests on another torch, in an environment of its own"
	@echo "make test-triton TRITON=3.9.0  those of the Triton kernels on another Triton, likewise"
	@echo "make test-clients              other people's packages on ours, likewise (docs/compatibility.md)"
	@echo "make bench      who wins by how much"
	@echo "make chip OUT=DIR SECONDS=600  all that a GPU is asked, in one run that may be cut off (docs/chip.md)"
	@echo "make lint       ruff, mypy and clang-format, changing nothing"
	@echo "make format     the changes that lint asks for, where a tool can make them"

build:
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:
	$(PYTHON) -m pytest

test-full:
	$(PYTHON) -m pytest -m "full or not full" --random-order $(SEED)

N ?= 50
mutants: SEED = 1
mutants:
	$(PYTHON) tests/mutants.py --n $(N) --seed $(SEED)

test-torch:
	PYTHON=$(PYTHON) .ci/test-with torch==$(TORCH) -n 2 $(PYTEST_ARGS)

test-triton:
	PYTHON=$(PYTHON) .ci/test-with triton==$(TRITON) -n 2 -k "triton or aot" \
		tests/conformance tests/test_aot.py tests/test_triton_*.py $(PYTEST_ARGS)

test-clients:
	PYTHON=$(PYTHON) .ci/test-with clients -m "full or not full" tests/clients $(PYTEST_ARGS)

bench:
	$(PYTHON) -m pytest bench/

chip:
	$(PYTHON) alexkern/tools/chip.py --out "$(OUT)" --archive "$(ARCHIVE)" --seconds "$(SECONDS)"

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	clang-format --dry-run --Werror $(CPP_FILES)

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	clang-format -i $(CPP_FILES)
