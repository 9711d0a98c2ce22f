PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test check fast screenshots prove faults clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv .venv
	"$(BIN)/pip" install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch .venv/ready

demo: setup
	"$(BIN)/feedlab" serve --demo

check: setup
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"

fast: setup
	"$(BIN)/pytest" --numprocesses auto -m "not servers and not browser and not thorough"

test: check fast
	"$(BIN)/pytest" -m "servers or browser or thorough"

screenshots: setup
	"$(BIN)/python" -m tests.browser.screenshots

prove: setup
	"$(BIN)/python" -m tests.prove

faults: setup
	"$(BIN)/feedlab" bench faults
	"$(BIN)/feedlab" bench faults --no-aof --seed 2
	"$(BIN)/feedlab" bench faults --replica-set --faults 24 --seed 3

clean:
	rm -rf .venv .data
