# niimpi's commands. `make help` lists them; CONTRIBUTING.md describes them.
MPI   ?= openmpi
# The CPUs that this process may use; nproc alone would print OMP_NUM_THREADS if it is set.
RANKS ?= $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
DATA  ?= data
OUT   ?= out
# The filter of `make demo` and its options.
FILTER ?= smooth --sigma 2
COUNT ?= $(if $(filter denoise,$(firstword $(FILTER))),40,400)
BENCH ?= docs/benchmarks/$(shell date +%Y-%m-%d)
SECONDS_EACH ?= 60
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

with := .ci/with-mpi $(MPI)
# A hang must fail, so every step has a time limit.
limit := timeout --kill-after=20
# Builds without MPI have their own folder, so that neither build overwrites the other. Light optimisation
# keeps the filter's tests fast with overflow checks and debug assertions, which release builds lack.
bare := CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/no-mpi CARGO_PROFILE_DEV_OPT_LEVEL=1 \
  CARGO_PROFILE_DEV_DEBUG=line-tables-only

# Tests of oracle/ measure no time, so they run in parallel, file by file. With MPICH, tests of arithmetic on
# one rank are left out: they have the same code with every MPI.
compared := --numprocesses $(RANKS) --dist loadfile \
  $(if $(filter mpich,$(MPI)),-m 'not arithmetic or ranks')
# Of the plans, those tests that depend on the MPI library.
planned := $(if $(filter mpich,$(MPI)),-m mpi_library)

# The files of tests/oracle that `make test` runs.
core := scipy outputs ranks resume report setup_errors

export MPI CLUSTER
# cargo and pytest use all CPUs by themselves, and tests of plans measure times.
.NOTPARALLEL:

.PHONY: help demo build test test-all test-core test-rust test-no-mpi test-python test-browser
.PHONY: test-planning test-cluster
.PHONY: cluster cluster-down lint lint-format lint-rust lint-shell lint-rustdoc lint-shape lint-deny
.PHONY: docs docs-check ci clean stress fuzz validate-plan scaling-study bench

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo
	@echo '  variables: MPI=openmpi|mpich (now $(MPI))  RANKS=$(RANKS)  DATA=$(DATA)' \
	  ' OUT=$(OUT)  COUNT=$(COUNT)  PYTEST_ARGS=' \
	  " FILTER='$(FILTER)'"

demo: build ## build, create 400 sample images, filter them on all CPUs, print the report
	@$(with) .ci/demo '$(DATA)' '$(OUT)' '$(RANKS)' '$(COUNT)' $(FILTER)

build: ## install what is missing and build the release program
	@.ci/install build
	@$(with) $(limit) 20m cargo build --release --locked
	@$(with) bash -c 'echo "The program: $$NIIMPI_BIN"'

test: test-rust test-core ## unit tests, results compared with SciPy, ranks, resume (6 minutes on 2 CPUs)
	@echo 'The rest (faults, hostile files, scaling, plans, Slurm): make test-all'

test-all: test-browser
test-all: test-rust test-no-mpi test-python test-planning test-cluster ## every test (MPI=mpich: with MPICH)

test-core: # the part of test-python that every change needs
	@.ci/install test
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 10m .venv/bin/python -m pytest $(addprefix tests/oracle/test_,$(addsuffix .py,$(core))) \
	  -q --numprocesses $(RANKS) --dist loadfile $(PYTEST_ARGS)

test-rust: ## Rust tests in release mode
	@.ci/install test
	@$(with) $(limit) 20m cargo build --release --locked
	@$(with) $(limit) 20m cargo test --release --locked

test-no-mpi: ## Rust tests without MPI, libclang and ISA-L (the fastest)
	@.ci/install no-mpi
	@$(bare) $(limit) 20m cargo test --locked --no-default-features

test-python: ## compare the program with SciPy, nibabel, niimath, ANTs and dipy
	@.ci/install test
	@.ci/install ants
	@.ci/install dipy
	@.ci/install bids
	@.ci/install opencl
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 30m .venv/bin/python -m pytest tests/oracle -q $(compared) $(PYTEST_ARGS)
	@$(with) $(limit) 10m .venv/bin/python -m pytest tests/stress -q $(PYTEST_ARGS)

test-browser: ## open the report's page in headless Chromium: sorting, contrast, narrow screens
	@.ci/install test
	@.ci/install browser
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 5m .venv/bin/python -m pytest tests/browser -q $(PYTEST_ARGS)

test-cluster: ## run the batch scripts of slurm/ on a Slurm cluster of three nodes on this machine
	@.ci/install test
	@.ci/install cluster
	@.ci/install opencl
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 15m .ci/test-cluster $(PYTEST_ARGS)

cluster: build ## start a Slurm cluster of three nodes on this machine, to experiment with
	@.ci/install cluster
	@tests/cluster/cluster up
	@echo 'Try: tests/cluster/cluster shell       (README.md and tests/cluster/README.md say what to do there)'

cluster-down: ## stop that cluster and remove its files
	@tests/cluster/cluster down

test-planning: ## scaling studies and plans from end to end
	@.ci/install test
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 10m .venv/bin/python -m pytest tests/planning -q $(planned) $(PYTEST_ARGS)

validate-plan: ## compare 20 plans with runs of 400 images (15 minutes on an idle machine)
	@.ci/install test
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@$(with) $(limit) 240m .venv/bin/python -m pytest tests/planning -q -s -m validation $(PYTEST_ARGS)

scaling-study: build ## repeat the study of docs/scaling on this machine (15 minutes on an idle machine)
	@$(with) docs/scaling/study

stress: ## kills, injected errors, damaged files and concurrent runs at full length (an hour)
	@.ci/install test
	@$(with) $(limit) 20m cargo build --release --locked --quiet
	@NIIMPI_STRESS_FILES=10000 NIIMPI_STRESS_KILLS=240 NIIMPI_STRESS_IMAGES=40000 $(with) $(limit) 90m \
	  .venv/bin/python -m pytest tests/oracle -q -s -k 'mutated or killed_at_any_moment or many_images'
	@NIIMPI_STRESS_INJECTED=120 NIIMPI_STRESS_RIVALS=1000 $(with) $(limit) 90m \
	  .venv/bin/python -m pytest tests/stress -q -s

fuzz: ## fuzz headers, gzip streams, extensions and journals, each for SECONDS_EACH
	@.ci/install test
	@$(with) .ci/fuzz $(SECONDS_EACH)

lint: lint-format lint-rust lint-shell lint-rustdoc lint-shape lint-deny ## format, clippy, rustdoc, shape, …

lint-format:
	@.ci/install lint
	cargo fmt --check

lint-rust:
	@.ci/install lint
	@$(with) $(limit) 20m cargo clippy --locked --all-targets -- -D warnings
	@$(bare) $(limit) 20m cargo clippy --locked --all-targets --no-default-features -- -D warnings

lint-shell:
	@.ci/install lint
	shellcheck $$(grep -rlIsE '^#!.*\b(ba)?sh$$' .ci slurm tests benches docs)

lint-rustdoc:
	@.ci/install lint
	@RUSTDOCFLAGS='-D warnings' $(with) $(limit) 20m cargo doc --locked --no-deps --document-private-items

lint-shape: # width of lines, length of files, cycles between modules
	@python3 .ci/code_check.py

lint-deny: # licences and sources of the dependencies; advisories need the network
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	  else echo 'lint-deny: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)'; fi

docs: build ## write docs/usage.md from the program's own help
	@$(with) .ci/usage > docs/usage.md.new && mv docs/usage.md.new docs/usage.md
	@echo 'docs/usage.md is written.'

docs-check: build ## check links, commands and docs/usage.md
	@.ci/install lint
	@$(with) python3 .ci/docs_check.py

bench: ## compare niimpi with other programs; writes docs/benchmarks/<date> (half an hour)
	@.ci/install build && .ci/install bench
	@$(with) $(limit) 20m cargo build --release --locked
	@$(with) $(limit) 40m .venv-bench/bin/python benches/side_by_side.py $(BENCH)
	@$(with) $(limit) 40m .venv-bench/bin/python benches/growth.py $(BENCH)
	@$(with) $(limit) 20m .venv-bench/bin/python benches/filters.py $(BENCH) | tee $(BENCH)/filters.md
	@$(with) $(limit) 20m .venv-bench/bin/python benches/fft.py $(BENCH) | tee $(BENCH)/fft.md
	@$(with) $(limit) 20m .venv-bench/bin/python benches/parallelism.py $(BENCH) | tee $(BENCH)/parallelism.md
	@.venv-bench/bin/python benches/page.py $(BENCH)
	@echo 'Figures, tables and plot are in $(BENCH).'

ci: ## run what CI runs: every check on both MPIs
	@.ci/run

clean: ## remove build results and .venv; images stay
	rm -rf target .venv .venv-bench .venv-ants .venv-dipy .venv-bids
