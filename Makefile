# `make demo`: the environment, then the main job. `make test`: the same environment with the test tools, and every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q
# everything reads the cores that there are
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)
export TOKENIZERS_PARALLELISM := false
# most of a test is Python, which more threads do not speed up: the files of tests are spread over processes instead
SPREAD := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test soak clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "building $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "pip>=25.1"
	$(PIP) -c constraints.txt -e .
	$(PIP) --no-deps --group frozen
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -c constraints.txt --group test
	touch $@

demo: $(VENV)/.installed
	$(BIN)/junto run align recipes/quickstart.yaml
	$(BIN)/junto run council --run quickstart --question "4 7 8 8"
	$(BIN)/junto explain pair --run quickstart --question "4 7 8 8"
	@echo "report: $(CURDIR)/runs/quickstart/report.html"

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	LANGGRAPH_STRICT_MSGPACK=true OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" $(SPREAD)

soak: $(VENV)/.installed-test
	LANGGRAPH_STRICT_MSGPACK=true $(BIN)/python -m pytest -m soak --timeout 7200 -s

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
