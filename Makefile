PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE
# Tests with servers wait for them half of the time, so half as many again as there are processors run at once.
AT_ONCE = $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2)

.PHONY: setup demo test check fast elsewhere screenshots prove faults scale clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv .venv
	"$(BIN)/pip" install --quiet --constraint constraints.txt --editable '.[dev,servers]'
	@touch .venv/ready

demo: setup
	"$(BIN)/feedlab" serve --demo

check: setup
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache --no-logo

fast: setup
	"$(BIN)/pytest" --numprocesses auto -p no:schemathesis -m "not servers and not browser and not thorough and not scale"

test: check fast
	"$(BIN)/pytest" --numprocesses $(AT_ONCE) --dist worksteal -m "(servers or browser or thorough) and not scale"

# Not Debian's faketime: its 0.9.10 breaks time.sleep of Python 3.11 and later while the monotonic clock is left alone.
DATE ?= 2038-01-20
elsewhere: setup
	@locale -a | grep -qix 'tr_TR\.utf-\?8' || { \
		echo "make elsewhere needs the locale tr_TR.UTF-8: localedef -i tr_TR -f UTF-8 tr_TR.UTF-8" >&2; exit 1; }
	@export NO_FAKE_STAT=1 TZ=Pacific/Kiritimati LC_ALL=tr_TR.UTF-8; \
	export FAKETIME="$$(printf '%+d' $$(($$(date -d '$(DATE) 12:00' +%s) - $$(date +%s))))"; \
	eval "$$('$(BIN)/python-libfaketime')"; \
	[ "$$(date +%F)" = '$(DATE)' ] || { \
		echo "make elsewhere cannot move the date: it needs the package libfaketime, on Linux on x86-64" >&2; exit 1; }; \
	"$(BIN)/pytest" --numprocesses auto -m "not servers and not browser and not thorough and not scale"

screenshots: setup
	"$(BIN)/python" -m tests.browser.screenshots

prove: setup
	"$(BIN)/python" -m tests.prove

faults: setup
	"$(BIN)/feedlab" bench faults
	"$(BIN)/feedlab" bench faults --no-aof --seed 2
	"$(BIN)/feedlab" bench faults --replica-set --faults 24 --seed 3

scale: setup
	"$(BIN)/pytest" -m scale

clean:
	rm -rf .venv .data
