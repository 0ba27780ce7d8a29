# Every target installs what it needs first. `make help` lists them.

SHELL := /bin/bash
# Servers installed by deploy/install.sh, for this project alone.
export PATH := $(CURDIR)/.oncue/bin:$(PATH)
# Tests are in a package of their own, and nobody runs them from here.
PROGRAMS := --locked --bins --workspace --exclude oncue-tests
RELEASE := cargo build --release $(PROGRAMS)
# What `make up` builds with: quick, or BUILD=release.
BUILD ?= quick
# Functions that tests crash at chosen points; built a second time, with those points in them.
FAULTY := misbehave record call-once
BIN := $(or $(CARGO_TARGET_DIR),target)

# How long `make chaos` goes on. More of it: ARGS="--rate 2000 --cuts 20 --record FILE.md".
MINUTES ?= 10

# Uploads of `make flows`.
FLOWS ?= 1000

# What `make bench` runs: CASES="clicks hot", ROUNDS=5, QUICK=1.
BENCH := $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) --json $(BIN)/bench.json $(CASES)

.PHONY: up test sizes chaos breakages losses app dist dist-test flows bench bench-peers bench-counts bench-report measure saved browser openapi oidc rotation screenshots browser-tools lint fmt check install clean help
.DEFAULT_GOAL := help

up: install ## Run everything on this machine; Ctrl-C stops it all. PROFILE=durable survives power cuts; BUILD=release; ARGS="--only count-views"
	@cargo build --profile $(BUILD) $(PROGRAMS)
	@exec $(BIN)/$(BUILD)/oncue up --profile $(or $(PROFILE),dev) $(ARGS)

# One more than there are cores: most of the time a test waits for something.
TESTS_AT_A_TIME = $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))
# What tests could not try here, and why.
SKIPPED := $(abspath $(BIN))/tmp/skipped
test: install ## Run every test, with real servers and real programs
	@deploy/install.sh python
	@deploy/install.sh typescript
	cargo build --locked --workspace $(FAULTY:%=--bin %) --features oncue-tests/failpoints
	@mkdir -p $(BIN)/debug/failpoints && cp $(FAULTY:%=$(BIN)/debug/%) $(BIN)/debug/failpoints/
	cargo build --locked --workspace --bins
	@mkdir -p $(BIN)/tmp && rm -f $(SKIPPED)
	@export ONCUE_TESTS_SKIPPED=$(SKIPPED); \
	if cargo nextest --version >/dev/null 2>&1; then \
		echo cargo nextest run --workspace && cargo nextest run --locked --workspace --no-fail-fast --test-threads $(TESTS_AT_A_TIME) && \
		echo cargo test --doc && cargo test --locked --workspace --doc -q; \
	else \
		echo cargo test --workspace && cargo test --locked --workspace; \
	fi; code=$$?; \
	if [ -s $(SKIPPED) ]; then sort -u $(SKIPPED) | sed 's/^/skipped: /'; fi; exit $$code

chaos: install ## Harm servers, workers and lines for MINUTES=10 and account for every event. Options: ARGS="--row K-2 --cuts 20"
	@deploy/install.sh python
	@$(RELEASE)
	@cargo build --release --locked --bins --package oncue-tests --no-default-features --features mimalloc
	@exec $(BIN)/release/chaos --minutes $(MINUTES) $(ARGS)

losses: ## The rows FLUSHALL and backup of `make chaos` alone, at 1,000 events a second: recover, restore, and nothing lost or doubled
	@$(MAKE) --no-print-directory chaos MINUTES=1 ARGS="--row R-1 --row R-4 --rate 1000 --seconds 30 $(ARGS)"

app: install ## Make an app with `oncue new` in an empty folder, build and test it, and send an event through it
	@deploy/install.sh typescript
	cargo build --locked --workspace --bins
	tests/app.sh $(BIN)/debug

# Built to be given away, so not as for `make up`; `make dist BUILD=quick` is sooner done.
dist: BUILD = release
dist: install ## Make packages in dist/ (tarball, Debian, Python wheel, npm), to install without a compiler. BUILD=quick
	@deploy/install.sh typescript
	cargo build --profile $(BUILD) $(PROGRAMS)
	deploy/dist.py $(BIN)/$(BUILD) $(ARGS)

dist-test: install ## Install each package into an empty place without Rust and network; run the demo and a new app there
	@deploy/install.sh typescript
	cargo build --locked --workspace --bins
	rm -rf $(BIN)/dist-test
	deploy/dist.py $(BIN)/debug --out $(BIN)/dist-test --fast
	tests/dist.sh $(BIN)/dist-test

flows: install ## Follow FLOWS=1000 uploads while workers are killed with -9: each complete, and no answer before its last hop
	cargo build --locked --workspace --bins
	ONCUE_TEST_FLOWS=$(FLOWS) cargo test --locked --package oncue-tests --test system -- --nocapture --test-threads 1 flows::flows_under flows::prefer_wait_answers_when

bench: install ## Measure Oncue beside NATS and Redis driven by hand. CASES="clicks hot" ROUNDS=5 QUICK=1
	@$(RELEASE)
	@cargo build --release --locked --bins --package oncue-tests --no-default-features --features mimalloc
	@exec $(BIN)/release/bench $(BENCH)

# As it is given away; `make bench-peers BUILD=quick` is sooner done, and its figures are those of the host alone.
bench-peers: BUILD = release
bench-peers: install ## Measure functions in Python and TypeScript beside FastStream, NestJS and loops by hand. ROUNDS=5 QUICK=1
	@deploy/install.sh python
	@deploy/install.sh typescript
	@mkdir -p .oncue/peers && cp tests/peers/package.json tests/peers/package-lock.json .oncue/peers
	@npm ci --prefix .oncue/peers --no-audit --no-fund --loglevel=error
	@[ -x .oncue/peers/venv/bin/python ] || python3 -m venv .oncue/peers/venv
	@.oncue/peers/venv/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	@cargo build --profile $(BUILD) --locked --bin oncue-host
	@cargo build --profile $(BUILD) --locked --package oncue-tests --no-default-features --features mimalloc --bin bench --bin bench-clicks
	@exec $(BIN)/$(BUILD)/bench $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) --json $(BIN)/bench-peers.json $(or $(CASES),python typescript hosts)

bench-counts: install ## Compare instructions and allocations of an event with tests/bench-counts.json; RECORD=1 writes them anew
	@cargo build --release --locked --package oncue-tests --bin bench --bin bench-clicks
	@exec $(BIN)/release/bench --counts tests/bench-counts.json $(if $(RECORD),--record)

bench-report: ## Write deploy/BENCH.md, and deploy/BENCH-PEERS.md, with their pictures from what was found
	@cargo build --release --locked --package oncue-tests --no-default-features --features mimalloc --bin bench
	@exec $(BIN)/release/bench --report $(BIN)/bench.json deploy/BENCH.md
	@[ ! -f $(BIN)/bench-peers.json ] || exec $(BIN)/release/bench --report $(BIN)/bench-peers.json deploy/BENCH-PEERS.md

measure: install ## Measure what README.md quotes: time to ready, start and memory of a worker, sleep
	@$(RELEASE)
	@cargo build --release --locked --bin namesake --package oncue-tests
	@python3 tests/measure.py

saved: install ## Measure how soon a saved line runs under `oncue dev`, beside RATE=500 events/s, and that each event counts once. SAVES=10
	@$(RELEASE)
	@python3 tests/saved.py

breakages: install ## Break a running app on purpose; what its console says, which alert fires, what mends it: deploy/BREAKAGES.md
	@deploy/install.sh promtool
	cargo build --locked --workspace --bins
	@exec $(BIN)/debug/breakages deploy/BREAKAGES.md

browser: install browser-tools ## Click through the console in headless Chromium; pictures in target/screenshots
	@cargo build --locked --bin oncue-console --bin oncue --bin crowd
	@if [ -d tests/browser/node_modules ]; then timeout 1200 node tests/browser/run.mjs; \
	else echo "browser tests: skipped, they need node 20 or later with npm"; fi

sizes: install browser-tools ## Measure the console with 100,000 dead letters, a flow of 10,000 events, a stream of a million, 10,000 events/s
	@$(RELEASE)
	@cargo build --release --locked --package oncue-tests --bin crowd
	@node tests/browser/sizes.mjs release

openapi: install ## Ask a gateway all that its OpenAPI document allows and forbids, for MINUTES=10; no 500, no undocumented answer
	@[ -x .oncue/openapi/bin/schemathesis ] || { python3 -m venv .oncue/openapi && .oncue/openapi/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5; }
	@cargo build --locked --workspace --bins
	@python3 tests/openapi.py

oidc: install ## Replace the keys of a certified OpenID provider under load, and log in to the console by it; needs npm
	@[ -d tests/oidc/node_modules ] || npm ci --prefix tests/oidc --no-audit --no-fund --loglevel=error
	cargo nextest run --locked -p oncue-tests --test system gateway::oidc console::login --success-output final

rotation: install ## Replace every key, password and certificate under EVENTS=50000 events, kill workers meanwhile, then revoke one
	@cargo build --locked --workspace --bins
	@EVENTS=$(or $(EVENTS),50000) cargo nextest run --locked -p oncue-tests --test system rotation:: --success-output final

screenshots: install browser-tools ## Make the pictures of README.md from the running demo
	@$(RELEASE)
	@node tests/browser/screenshots.mjs release

# Development tools only, and only where they are missing. What cannot be installed is said, and the tests skip.
browser-tools:
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ -z "$$CHROMIUM" ] && command -v apt-get >/dev/null; then \
		as_root() { if [ $$(id -u) = 0 ]; then "$$@"; else sudo -n "$$@"; fi; }; export DEBIAN_FRONTEND=noninteractive; \
		get() { as_root timeout 300 apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; }; \
		get || { as_root timeout 120 apt-get update -qq >/dev/null 2>&1 && get; } || echo "chromium cannot be installed here"; fi
	@if command -v npm >/dev/null && [ ! -d tests/browser/node_modules/axe-core ]; then \
		timeout -k 5 60 npm ci --prefix tests/browser --no-audit --no-fund --loglevel=error || { rm -rf tests/browser/node_modules; echo "playwright-core and axe-core cannot be installed here"; }; fi

lint: ## Formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt: ## Format all code
	cargo fmt --all

check: ## Only see whether it compiles
	cargo check --locked --workspace --all-targets

install: ## Find or install nats-server and redis-server
	@deploy/install.sh

clean: ## Remove what was built; data in .oncue stays
	cargo clean

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16
