# Every target sets up what it needs first; `make setup` does only that. Options: see README.md and CONTRIBUTING.md.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.PHONY: help setup demo demo-sidecars serve test lint protos model-check model-check-quick conformance faults fault-controls bench engine-bench kill-trials raft-simulation simulate seeded-bugs clean

help:
	@echo "make demo               a tour: three replicas, hosts with actors, calls, hosts and the leader killed, and a table"
	@echo "make demo-sidecars      the same cluster seen by Dapr sidecars: rounds, drops, a leader killed with -9"
	@echo "make test               everything that must pass before a change lands"
	@echo "make serve              one server on 127.0.0.1:50005 until Ctrl-C"
	@echo "make model-check        TLC over all of tla/  (model-check-quick: the part that make test runs)"
	@echo "make faults             a fault-injection campaign: TIME=10m SEED= RUNS= JOBS=1 WORKLOAD= FAULT= ENGINE= REPLICAS= HOSTS="
	@echo "make fault-controls     seeded bugs in callboard's processes, which the fault suite has to find"
	@echo "make conformance        paths of the specification replayed on the code, its traces in TLC, its mutants"
	@echo "make bench              1,000 simulated sidecars; slot tables and their deltas; calls of actors"
	@echo "make engine-bench       commits/s, latency and failover of the consensus engines"
	@echo "make kill-trials        kill -9 of every replica at the moment of compaction, 40 times"
	@echo "make raft-simulation    thousands of random schedules against the embedded engine"
	@echo "make simulate           whole clusters on virtual time under every fault: SEEDS=1-1000 JOBS=2"
	@echo "make seeded-bugs        bugs put into core, and who finds them after how much work"
	@echo "make protos             regenerate the code of spec/protos"
	@echo "make setup              only install what is missing"

setup:
	@bash harness/setup.sh

demo: setup
	@$(PYTHON) -m harness.demo

demo-sidecars: setup
	@$(PYTHON) -m harness.demo_sidecars

serve: setup
	@$(PYTHON) -m callboard.cli.main serve --data-dir .build/serve

test: setup
	@$(PYTHON) -m harness.stages

lint: setup
	@$(PYTHON) -m harness.stages --only style,types,layers,protos

protos: setup
	@$(PYTHON) -m harness.protos

model-check: setup
	@$(PYTHON) -m harness.modelcheck --tier all

model-check-quick: setup
	@$(PYTHON) -m harness.modelcheck --tier quick

FAULTS_OPTIONS := $(if $(TIME),--time $(TIME)) $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) \
	$(if $(JOBS),--jobs $(JOBS)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(POLICY),--policy $(POLICY)) \
	$(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(HOSTS),--hosts $(HOSTS)) \
	$(foreach one,$(WORKLOAD),--workload $(one)) $(foreach one,$(FAULT),--fault $(one))

faults: setup
	@.venv/bin/callboard-faults campaign $(FAULTS_OPTIONS)

fault-controls: setup
	@.venv/bin/callboard-faults controls $(if $(RECORD),--record)

conformance: setup
	@$(PYTHON) -m harness.conformance paths
	@$(PYTHON) -m harness.conformance mutants --budget 5 --jobs $(or $(JOBS),1)
	@$(PYTHON) -m harness.conformance traces --runs 300 --slots 6 --sensitivity 10
	@$(PYTHON) -m harness.conformance traces --source simulation --runs 300 --slots 6
	@$(PYTHON) -m harness.conformance traces --source processes --slots 16
	@$(PYTHON) -m harness.conformance trace-mutants --walks 40

bench: setup
	@$(PYTHON) -m harness.bench_sidecars
	@$(PYTHON) -m harness.bench_slots
	@$(PYTHON) -m harness.bench_calls
	@$(PYTHON) -m harness.simulation bench

engine-bench: setup
	@$(PYTHON) -m harness.enginebench bench

kill-trials: setup
	@$(PYTHON) -m harness.enginebench kill-trials --trials 40

raft-simulation: setup
	@$(PYTHON) -m harness.raftsim --schedules $(or $(SCHEDULES),5000) --seed $(or $(SEED),1)

simulate: setup
	@$(PYTHON) -m harness.simulation --seeds $(or $(SEEDS),1-1000) --jobs $(or $(JOBS),1)

seeded-bugs: setup
	@$(PYTHON) -m harness.seeded_bugs

clean:
	rm -rf .build .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
