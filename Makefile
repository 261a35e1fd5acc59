# The only commands that README, hooks and CI use.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
TESTS := --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo up down test test-servers check bench-real bench-shipped bench-unknown bench-dirty bench-memory bench-automation bench-publishing bench-arrivals bench-kills bench-batches bench-search bench-training bench-score bench-job bench-workers bench-distributed clean
help:            ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/ →/' | column -t -s '→'

setup: $(READY)  ## .venv with everything in constraints.txt
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "clerkflow needs Python 3.11: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time: torch is large)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)   ## the whole life of two processes, a quarter of an hour on two cores
	@$(BIN)/clerkflow demo

up: $(READY)     ## MinIO, a Prefect server, a worker, the deployments and the watcher, on loopback
	@$(BIN)/python -m infra.system up

down: $(READY)   ## stop them
	@$(BIN)/python -m infra.system down

test: $(READY)   ## the tests that need no server
	@$(BIN)/python -m pytest $(TESTS) -m "not server"

test-servers: $(READY)  ## the others: whole lives, kills, workers, several processes, on real MinIO, PostgreSQL, Prefect, Chromium; what is absent is skipped
	@$(BIN)/python -m pytest $(TESTS) -m server

check: $(READY)  ## lint, format, types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench-real: $(READY)    ## the train flow on the public data sets of ../shared/data
	@$(BIN)/python -m benchmarks.real

bench-shipped: $(READY) ## every shipped process, trained as declared, to its gate
	@$(BIN)/python -m benchmarks.shipped

bench-unknown: $(READY) ## records with none of the labels: how many are accepted without a person
	@$(BIN)/python -m benchmarks.unknown

bench-dirty: $(READY)   ## two dirty files against their manifests
	@$(BIN)/python -m benchmarks.dirty

bench-memory: $(READY)  ## peak memory of a batch of 2,000 and of 200,000 records
	@$(BIN)/python -m benchmarks.memory

bench-automation: $(READY)  ## does the certified bound hold: nominal against observed violations over 200 seeds
	@$(BIN)/python -m benchmarks.automation

bench-publishing: $(READY)  ## a 500 MB model to MinIO and back, beside mc and a minio-py loop
	@$(BIN)/python -m benchmarks.publishing

bench-arrivals: $(READY)  ## new files start runs: how soon, and exactly once while events are lost and the worker is killed
	@$(BIN)/python -m benchmarks.arrivals

bench-kills: $(READY)   ## 50 kills during a batch from and into PostgreSQL: each record exactly once
	@$(BIN)/python -m benchmarks.kills

bench-batches: $(READY) ## memory and rerun of a batch of a million records with a model that answers at once
	@$(BIN)/python -m benchmarks.batches

bench-distributed: $(READY)   ## one process beside two that tune together
	@$(BIN)/python -m benchmarks.distributed

bench-training: $(READY)  ## useful tokens a second of the training loop, beside plain loops and transformers' Trainer, at equal loss
	@$(BIN)/python -m benchmarks.training

bench-search: $(READY)  ## what stopping bad trials of a search saves, on curves of real trainings
	@$(BIN)/python -m benchmarks.search

bench-score: $(READY)  ## rows a second of a model that writes, beside transformers one by one, in batches, and sorted
	@$(BIN)/python -m benchmarks.score

bench-job: $(READY)     ## a whole batch job of 100,000 records beside the engine alone
	@$(BIN)/python -m benchmarks.job

bench-workers: $(READY)  ## a batch by two workers on Ray beside one process, from a MinIO store
	@$(BIN)/python -m benchmarks.workers

clean:           ## remove what was built here; the store stays
	@rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
