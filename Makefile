# The two commands: `make demo` and `make test`. Needs Python 3.11 or newer, make and git; everything else is fetched,
# pinned by hash, into .tools/ and .venv/ beside this file.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
LAKE ?= dir
PORT ?= 3000
ARGS ?=
# Of the images, as `make deploy` expects it: the package's version. PUSH names a repository.
TAG ?= $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
PUSH ?=
STAGE ?= dev
CDK_PYTHON := ../.venv-infra/bin/python

# Without bytecode the imports of dagster and great_expectations take two to three times as long, each time.
unexport PYTHONDONTWRITEBYTECODE
export DAGSTER_DISABLE_TELEMETRY := 1

.PHONY: help demo up test test-fast test-faults lint bench docs lock clean image synth deploy destroy test-infra lock-infra

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: .venv/.core $(if $(filter s3,$(LAKE)),.venv/.dev) ## Fill a lake from a simulated market, check it, answer a question in SQL; LAKE=s3 on a local S3 server
	@$(BIN)/crypto-assets demo --lake $(LAKE) $(ARGS)

up: .venv/.core $(if $(filter s3,$(LAKE)),.venv/.dev) ## Dagster's UI and daemon on 127.0.0.1:PORT; LAKE=s3 keeps the lake on a local S3 server
	@$(BIN)/crypto-assets up --port $(PORT) --lake $(LAKE) $(ARGS)

test: .venv/.dev ## Every test but faults and soak
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --ignore=tests/faults $(ARGS)

test-fast: .venv/.dev ## Only the tests that start no processes
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --ignore=tests/faults -m "not e2e and not browser" $(ARGS)

test-faults: .venv/.dev ## What the lake promises, each promise tried by faults; writes docs/reliability.md
	@# The first folder brings the option, the second the tests elsewhere that are rows of the table.
	@$(BIN)/python -m pytest tests/faults tests -n 2 --dist loadgroup -m "not soak" --write-reliability $(ARGS)

lint: .venv/.dev ## Lint, types, import rules, unused dependencies, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry . --no-ansi
	@$(BIN)/python -m crypto_assets.tables.dictionary --check

bench: .venv/.dev ## Benchmarks, each against the obvious way of doing the same
	@$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/.dev ## Write the data dictionary anew
	@$(BIN)/python -m crypto_assets.tables.dictionary

lock: $(UV) ## Resolve the dependencies anew
	@$(UV) pip compile -q pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock $(ARGS)
	@$(UV) pip compile -q pyproject.toml --all-extras -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements-dev.lock $(ARGS)
	@$(UV) pip compile -q pyproject.toml --extra aws -c requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o deploy/locks/app.lock $(ARGS)
	@$(UV) pip compile -q deploy/locks/store.in -c requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o deploy/locks/store.lock $(ARGS)
	@$(UV) pip compile -q deploy/locks/build.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o deploy/locks/build.lock $(ARGS)
	@$(PYTHON) docs/make_sbom.py

image: ## Build the containers' images as TAG; PUSH=repository pushes the app's there (docs/aws.md)
	@docker build --platform linux/amd64 --target app --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) -t crypto-assets:$(TAG) .
	@docker build --platform linux/amd64 --target store -t crypto-assets-store:$(TAG) .
	@if [ -n "$(PUSH)" ]; then docker tag crypto-assets:$(TAG) $(PUSH):$(TAG) && docker push $(PUSH):$(TAG); fi

synth: .venv-infra/.done ## CloudFormation templates of STAGE=dev|prod, judged by a policy pack, into infra/cdk.out
	@rm -rf infra/cdk.out
	@cd infra && JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=18,20 CDK_OUTDIR=$(CURDIR)/infra/cdk.out CDK_CONTEXT_JSON='{"stage": "$(STAGE)"}' $(CDK_PYTHON) app.py
	@echo "templates of $(STAGE): infra/cdk.out"

deploy: .venv-infra/.done ## Bring STAGE=dev|prod to the AWS account of your credentials; docs/aws.md says what it costs
	@cd infra && $(CDK_PYTHON) account.py deploy $(STAGE) $(ARGS)

destroy: .venv-infra/.done ## Take STAGE=dev down again, its data with it; prod keeps its data
	@cd infra && $(CDK_PYTHON) account.py destroy $(STAGE) $(ARGS)

test-infra: .venv-infra/.done .venv/.dev ## Templates, permissions, and a deploy to an emulated AWS on loopback
	@cd infra && $(CDK_PYTHON) -m pytest $(ARGS)

lock-infra: $(UV) ## Resolve the CDK app's dependencies anew
	@$(UV) pip compile -q infra/requirements.txt --override infra/overrides.txt --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o infra/requirements.lock $(ARGS)
	@cd infra && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --loglevel=error

clean: ## Remove the environment and the demo's data
	@rm -rf .venv .venv-infra infra/node_modules infra/cdk.out .tools .mypy_cache .ruff_cache .hypothesis data/demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@echo "setting up: uv, the installer (once)"
	@$(PYTHON) -m venv .tools
	@.tools/bin/pip install --quiet --disable-pip-version-check uv

.venv/bin/python: | $(UV)
	@$(UV) venv --quiet --python $(PYTHON) .venv

# Without --no-deps an installer would refuse what overrides.txt decided; the lock names everything.
.venv-infra/.done: infra/requirements.lock infra/package-lock.json | $(UV)
	@echo "setting up: the CDK and what judges its templates, pinned by hash (once)"
	@test -x .venv-infra/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-infra
	@$(UV) pip install --quiet --python .venv-infra/bin/python --no-deps --require-hashes --compile-bytecode -r infra/requirements.lock
	@command -v npm >/dev/null || { echo "error: npm is not here: the CDK needs Node.js 20 or newer" >&2; exit 1; }
	@cd infra && npm ci --omit-lockfile-registry-resolved --no-audit --no-fund --loglevel=error
	@touch $@

.venv/.core: requirements.lock pyproject.toml | .venv/bin/python
	@if [ -f .venv/.dev ] && [ .venv/.dev -nt requirements.lock ] && [ .venv/.dev -nt pyproject.toml ]; then touch $@; else \
	  echo "setting up: packages, pinned by hash (once)"; \
	  $(UV) pip install --quiet --require-hashes --compile-bytecode -r requirements.lock; \
	  $(UV) pip install --quiet --no-deps --no-build-isolation -e .; touch $@; fi

.venv/.dev: requirements-dev.lock requirements.lock pyproject.toml | .venv/bin/python
	@echo "setting up: packages for development, pinned by hash (once)"
	@$(UV) pip install --quiet --require-hashes --compile-bytecode -r requirements-dev.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
