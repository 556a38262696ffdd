# make demo and make test are all that most people need; `make help` lists the rest.
SHELL := /bin/bash
BIN := .venv/bin
# Containers: a script that prints environment exports for podman, where there is no Docker engine.
CONTAINERS_SETUP ?= ../shared/tools/containers-setup
# Test processes: each starts its own peers, so more than cores does not pay.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check audit sbom soak bench models docs lock compose-test clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## make .venv with the locked dependencies (uv if it is there, else venv and pip)
	@.ci/setup

demo: setup ## send a radiograph and a CT phantom through the node; results in demo-out/ or DEMO_OUT
	@$(BIN)/dicom-node demo

check: setup ## format, lint, types, dependency and licence gates
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pip check
	$(BIN)/pytest -q tests/unit/test_licenses.py tests/unit/test_architecture.py

# Not part of check: it asks a server for today's advisories, so that a commit which passed yesterday
# may fail today, and one without network cannot pass at all. Release and nightly builds run it.
audit: setup ## hold the locked dependencies against known vulnerabilities (needs pypi.org)
	@.ci/supply-chain audit

sbom: setup ## write the software bill of materials of .venv to build/sbom.json (CycloneDX)
	@.ci/supply-chain sbom

test: check ## check, then every test
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

soak: setup ## hours of killing, cutting, filling, lying and overloading; SOAK_ROUNDS=20 of each
	$(BIN)/pytest -s tests/faults/soak/soak_*.py
	$(BIN)/python -W ignore -m tests.faults.peers.side_by_side --long
	$(BIN)/python -W ignore -m tests.faults.fuzz header --runs 60000 --seconds 3600
	$(BIN)/python -W ignore -m tests.faults.fuzz decode --runs 60000 --seconds 3600
	$(BIN)/python -W ignore -m tests.faults.fuzz rules --runs 20000 --seconds 3600
	$(BIN)/python -W ignore -m tests.faults.fuzz settings --runs 10000 --seconds 3600
	$(BIN)/python -W ignore -m tests.faults.fuzz associations --runs 20000 --seconds 7200

bench: setup ## compare with peers; prints ratios
	$(BIN)/python benchmarks/bench_receive.py
	$(BIN)/python benchmarks/bench_score.py

models: setup ## train, evaluate and export the shipped models; the image sets lie in DICOM_NODE_DATA
	$(BIN)/python -m training all

docs: setup ## write docs/commands.md and docs/conformance.md from the code itself
	$(BIN)/typer dicom_node.cli utils docs --name dicom-node --title Commands --output docs/commands.md
	$(BIN)/dicom-node conformance --config config/node.yaml > docs/conformance.md

lock: setup ## resolve the newest versions that pyproject.toml allows into constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade \
	  --no-header --no-annotate --strip-extras --no-emit-index-url --no-emit-find-links \
	  --output-file constraints.txt pyproject.toml

compose-test: setup ## build the images, run docker-compose.yml, send a study through, take it down
	CONTAINERS_SETUP=$(CONTAINERS_SETUP) tests/containers/compose-test

clean: ## remove what building and testing left (not .venv)
	rm -rf build dist demo-out var .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find dicom_node training tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
