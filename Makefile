# Everything that a person or CI runs. `make demo` and `make test` need Python 3.11 or later, git and make; the rest is
# installed into .venv, once: a stamp remembers what was installed from.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# tests start hundreds of processes, and each would compile everything anew
unexport PYTHONDONTWRITEBYTECODE
SECONDS_EACH ?= 60
# the tools of tests/tools that need environments of their own; superset is one more, and the largest
TOOLS ?= gizmosql dbt harlequin node backtest

INSTALL_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
MANIFESTS := .ci/install constraints.txt client/pyproject.toml server/pyproject.toml pyproject.toml

.PHONY: demo test tools lint bench crash fuzz rights soak proto notes audit inventory install dev clean help

help:
	@echo "make demo [ARGS=\"--seconds 10\"]   install, then show the whole way from exchange to query"
	@echo "make test [ARGS=\"-k name\"]        install, then run the tests"
	@echo "make tools [TOOLS=\"dbt superset\"] install other projects' tools, each into its own environment, for their tests"
	@echo "make lint                         ruff, mypy, import-linter"
	@echo "make bench [ARGS=\"size\"]          measure, keep the figures in bench/results, draw bench/report.html"
	@echo "make crash [ARGS=\"--crash-seed 7\"] every crash and disk fault there is; long, see proto-notes/crash-testing.md"
	@echo "make audit                        known weaknesses of the installed packages; skipped, with a reason, offline"
	@echo "make inventory                    list what the installed DuckDB offers to SQL anew; verdicts are kept"
	@echo "make rights [ARGS=\"--crash-seed 7\"] every role on every road, and 20,000 random statements against an oracle"
	@echo "make fuzz [ARGS=\"--crash-seed 7\"]  a hundred thousand messages of noise, to the decoder and to a server;"
	@echo "     [SECONDS_EACH=600]           then each target of tests/support/fuzz_targets.py, guided by coverage"
	@echo "make soak [ARGS=\"--seconds 60\"]    200 clients, a third of them hostile, for ten minutes; see bench/results/soak.md"
	@echo "make proto                        generate the protobuf code anew"
	@echo "make notes                        write the generated part of proto-notes/flight-sql.md anew"

demo: $(INSTALL_STAMP)
	$(BIN)/tickflight-server demo $(ARGS)

# In a process for each core. `ARGS="-n 0"` makes it one, for a debugger.
test: $(DEV_STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

tools: $(VENV)/bin/python
	PYTHON="$(PYTHON)" sh .ci/tools $(VENV)-tools $(TOOLS)

crash: $(DEV_STAMP)
	$(BIN)/python -m pytest tests/crash tests/system/test_cancel.py tests/system/test_abandoned.py tests/system/test_tail.py \
		tests/server/store/test_access.py \
		--campaign full $(ARGS)

fuzz: $(DEV_STAMP)
	$(BIN)/python -m pytest tests/fuzz --campaign full $(ARGS)
	sh .ci/fuzz $(VENV) $(SECONDS_EACH)

rights: $(DEV_STAMP)
	$(BIN)/python -m pytest tests/system/test_rights_matrix.py tests/system/test_rights_fuzz.py --campaign full $(ARGS)

soak: $(DEV_STAMP)
	$(BIN)/python tests/soak/run.py --record bench/results/soak.md $(ARGS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tickflight -p tickflight_server -p bench
	$(BIN)/lint-imports

audit: $(DEV_STAMP)
	sh .ci/audit $(VENV)

bench: $(DEV_STAMP)
	$(BIN)/python -m bench --collect $(ARGS)

install: $(INSTALL_STAMP)

dev: $(DEV_STAMP)

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: no Python 3.11 or later was found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALL_STAMP): $(VENV)/bin/python $(MANIFESTS)
	sh .ci/install $(VENV) run
	touch $@

$(DEV_STAMP): $(INSTALL_STAMP)
	sh .ci/install $(VENV) dev
	touch $@

# grpcio-tools 1.73.1 writes code that runs with protobuf 6.31 and later, 7.x included
proto:
	$(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/python -m pip install --quiet grpcio-tools==1.73.1
	$(VENV)-proto/bin/python -m grpc_tools.protoc -I client --python_out=client --pyi_out=client client/tickflight/wire/*.proto
	sed -i 's/^from google.protobuf import descriptor_pool as/from tickflight.wire import pool as/' client/tickflight/wire/*_pb2.py
	sed -i '1i # mypy: ignore-errors' client/tickflight/wire/*_pb2.pyi
	rm -rf $(VENV)-proto

notes: $(INSTALL_STAMP)
	$(BIN)/python -m tickflight_server.flight.document proto-notes/flight-sql.md

# what is new comes as unclassified, and is refused until somebody gives it a verdict
inventory: $(INSTALL_STAMP)
	$(BIN)/python -m tickflight_server.query.inventory server/tickflight_server/query/classified.txt

clean:
	rm -rf $(VENV) $(VENV)-audit $(VENV)-tools $(VENV)-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
