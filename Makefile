# Two commands set everything up on a fresh machine: `make demo` and `make test`.
#
#   PYTHON     the interpreter to make .venv with
#   VENV_ARGS  for example --system-site-packages, to keep the torch (with CUDA) you have
#   PIP_ARGS   further arguments for pip
#
# CMAKE_ARGS in the environment reaches llama.cpp's build, for example CMAKE_ARGS=-DGGML_CUDA=on.

PYTHON ?= python3
VENV_ARGS ?=
PIP_ARGS ?=
TORCH ?= torch==2.13.0
BIN := .venv/bin
# A process a core and one more, up to four: each has models and libraries of its own in memory.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)

.PHONY: demo test test-fast check parity prompts bench campaign fuzz audit wheel modelfiles reference install dev clean

demo: install
	$(BIN)/quantkit demo .cache/quantkit-demo --overwrite
	@printf '\nAsked through a pipe: printf "Who are you?\\n" | quantkit chat .cache/quantkit-demo\n'
	@printf 'Who are you?\n' | $(BIN)/quantkit chat .cache/quantkit-demo
	@printf '\nquantkit is $(BIN)/quantkit. To have it on your path: . $(BIN)/activate\n'

test: dev
	$(BIN)/python scripts/reference >/dev/null
	$(BIN)/python scripts/llama_tools >/dev/null
	$(PYTEST)

test-fast: dev
	$(PYTEST) --fast

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/render_modelfiles --check
	$(BIN)/python scripts/render_reference --check
	$(BIN)/python scripts/render_files --check

parity: dev
	$(BIN)/python scripts/reference >/dev/null
	$(BIN)/python scripts/parity
	$(PYTEST) --whole $$(grep -rl 'import in_turn$$' tests --include='test_*.py')

prompts: dev
	$(BIN)/python scripts/llama_tools >/dev/null
	$(BIN)/python scripts/parity --prompts

bench: dev
	$(BIN)/python scripts/bench

fuzz: dev
	$(BIN)/pip install -e '.[fuzz]'
	$(BIN)/python scripts/fuzz

campaign: dev
	$(BIN)/python scripts/campaign

audit: dev
	$(BIN)/python scripts/audit

wheel: dev
	$(BIN)/python scripts/wheel --check

modelfiles: install
	$(BIN)/python scripts/render_modelfiles

reference: install
	$(BIN)/python scripts/render_reference
	$(BIN)/python scripts/render_files

install: .venv/installed
dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv $(VENV_ARGS) .venv

# A wheel folder in PIP_FIND_LINKS holds a CPU build of torch; without the pin pip would fetch gigabytes of CUDA.
.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python scripts/llama_library $(PIP_ARGS)
	@echo "installing torch and the other packages"
ifdef PIP_FIND_LINKS
	$(PIP) $(TORCH)
endif
	$(PIP) -e '.[fast]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
