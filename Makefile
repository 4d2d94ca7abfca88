# Every command of the project; "make" alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# How "make package" builds.
ARCH ?= arm64

TOOLS := .tools/venv
PACKAGER := .tools/package
WORKFLOWS := .tools/workflows
# Run as "make build" built it: cargo run would build one package alone, with other features of what it shares.
LOCAL = "$${CARGO_TARGET_DIR:-target}"/debug/local
BENCH = "$${CARGO_TARGET_DIR:-target}"/debug/bench
# cargo-cyclonedx: the folder's name holds its version, so that another one is installed beside it.
CYCLONEDX := .tools/cyclonedx-0.5.9
# Coverage is all that libFuzzer needs of the compiler, and stable has that. The sanitizers work with RUSTC_BOOTSTRAP=1,
# but look for what only unsafe code can do, which the workspace forbids. Entropic scheduling takes two thirds of the time
# where an input reaches as much code as here.
FUZZER := .tools/cargo-fuzz-0.13.2
CARGO_FUZZ := $(FUZZER)/bin/cargo-fuzz fuzz
CARGO_FUZZ_OPTIONS := --fuzz-dir=fuzz --sanitizer=none
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
TARGET_arm64 := --arm64
TARGET_x86_64 := --x86-64
TRIPLE_arm64 := aarch64-unknown-linux-gnu
TRIPLE_x86_64 := x86_64-unknown-linux-gnu
FUNCTIONS := --package=ingest-fn --package=extractor-fn

# $(call step,What it is,command): a heading, the command, and one sentence if it fails.
step = @printf '\n== %s\n' "$(1)"; $(2) || { printf '\n%s: this failed; the lines above show why.\n' "$(1)" >&2; exit 1; }

# $(call only,NAMES): refuses any other on the command line, where a misspelt UNTIL would make a pause without an end.
only = $(foreach name,$(filter-out STACK AWS_% $(1),$(said)),$(error make $@ does not know $(name); what it knows: $(strip STACK $(1))))
said = $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))

# Before anything is installed for it.
ifneq ($(filter package sbom,$(MAKECMDGOALS)),)
$(if $(TRIPLE_$(ARCH)),,$(error ARCH is arm64 or x86_64))
endif

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

.PHONY: lint-workflows
lint-workflows: $(WORKFLOWS)/.ready ## Lint .github/workflows offline
	$(call step,Lints of the workflows,$(WORKFLOWS)/bin/actionlint)

.PHONY: audit
audit: tools ## Look for known vulnerabilities and withdrawn versions among the dependencies
	@if said=$$($(TOOLS)/bin/cargo-deny --locked check advisories 2>&1); then \
	  printf 'No known vulnerability, nothing unmaintained, nothing withdrawn.\n'; \
	else \
	  case $$said in \
	  *'failed to fetch advisory database'*) \
	    printf "make audit: nothing was checked: cannot reach RustSec's database of advisories, a git repository on GitHub.\\n" >&2 ;; \
	  *) printf '%s\n' "$$said" >&2 ;; \
	  esac; \
	  exit 1; \
	fi

.PHONY: simulate
simulate: ## Run the extractor in thousands of simulated worlds (SEEDS=10000, or SEED=123 alone)
	@cargo build --quiet --locked --workspace
	@"$${CARGO_TARGET_DIR:-target}"/debug/simulation $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),10000))

.PHONY: soak
soak: build ## Run the real stack under load and faults, and account for every event (SEED=1 EVENTS=30000 MINUTES=10, then the drain)
	@$(LOCAL) soak $(or $(SEED),1) $(or $(EVENTS),30000) $(or $(MINUTES),10)

.PHONY: mutants
mutants: ## Plant bugs one by one, and fail unless the simulation finds each (SEEDS=3000)
	@simulation/mutants

.PHONY: fuzz
fuzz: $(FUZZER)/.ready ## Look for input that breaks a promise (SECONDS=60 per target, or RUNS=number; TARGET=webhook)
	@cp Cargo.lock fuzz/Cargo.lock
	$(call step,Building for libFuzzer (about ten minutes the first time),$(CARGO_FUZZ) build $(CARGO_FUZZ_OPTIONS) $(TARGET))
	@for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	  printf '\n== Fuzzing %s: %s\n' $$target '$(or $(RUNS:%=% runs),$(or $(SECONDS),60) seconds)'; \
	  mkdir -p fuzz/findings/$$target; \
	  tools/corpus unpack fuzz/corpus/$$target.zip fuzz/found/$$target; \
	  nice $(CARGO_FUZZ) run $(CARGO_FUZZ_OPTIONS) $$target fuzz/found/$$target fuzz/corpus/$$target fuzz/findings/$$target -- \
	    -entropic=0 -dict=fuzz/dictionary -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0 \
	    $(or $(RUNS:%=-runs=%),-max_total_time=$(or $(SECONDS),60)) >/dev/null; \
	done

.PHONY: fuzz-keep
fuzz-keep: $(FUZZER)/.ready ## Add to fuzz/corpus what "make fuzz" found and nothing there covers (TARGET=webhook)
	@for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
	  rm -rf fuzz/kept; \
	  tools/corpus unpack fuzz/corpus/$$target.zip fuzz/kept; \
	  cp fuzz/corpus/$$target/* fuzz/kept; \
	  $(CARGO_FUZZ) run $(CARGO_FUZZ_OPTIONS) $$target fuzz/kept fuzz/found/$$target -- \
	    -set_cover_merge=1 -use_counters=0 -use_cmp=0 -max_len=1536 >/dev/null; \
	  tools/corpus pack fuzz/kept fuzz/corpus/$$target.zip; \
	done; \
	rm -rf fuzz/kept

.PHONY: bench
bench: ## Measure beside Python and Node, into bench/RESULTS.md (needs Node.js 20; seven minutes once built)
	@bench/run

.PHONY: dashboard
dashboard: build ## Draw the dashboard from a local run, into docs/dashboard.svg (five minutes)
	@$(LOCAL) dashboard

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
pin: ## Pin the Python tools to exact versions again, after a change of tools/*.in
	@test -x .tools/uv/bin/uv || { python3 -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv; }
	@for name in local package workflows; do \
	  pinned=$$(.tools/uv/bin/uv --quiet pip compile --universal --python-version=3.10 --generate-hashes --no-annotate --no-header tools/$$name.in); \
	  printf '# Written by "make pin" from %s.in: every package that the tools need, held to its version and contents.\n%s\n' $$name "$$pinned" > tools/$$name.txt; \
	done

## Set it up: what "make up" started, or with STACK=name a stack in your AWS account

# What a stack that does not exist yet cannot provide; secrets are listed so that tools/setup can explain what is wrong with that.
SETTINGS := GLADLY_HOST GLADLY_EMAIL WEBHOOK_KEYS_PARAMETER GLADLY_TOKEN_PARAMETER DESTINATION_TOKEN_PARAMETER KMS_KEY
SECRETS := GLADLY_TOKEN DESTINATION_TOKEN WEBHOOK_KEY

.PHONY: secrets
secrets: ## Write the tokens and the webhook key as SSM SecureStrings, once Gladly has accepted them (STACK=name)
	@$(call only,$(SETTINGS) $(SECRETS))tools/setup secrets

.PHONY: webhook
webhook: ## Create or update the webhook at Gladly (STACK=name)
	@$(call only,$(SETTINGS))tools/setup webhook

.PHONY: doctor
doctor: ## Check everything, one line each: ok, WRONG with the remedy, or ? (STACK=name)
	@$(call only,$(SETTINGS))tools/setup doctor

.PHONY: rotate-key
rotate-key: ## Replace the webhook key without a gap, in two steps (STACK=name DAYS=1 HEADER=no FORCE=1)
	@$(call only,DAYS HEADER FORCE $(SETTINGS) $(SECRETS))tools/setup rotate-key

## Operate it: what "make up" started, or with STACK=name a stack in your AWS account

# Verbatim: a dollar sign in a reason begins no variable.
override REASON := $(value REASON)
export REASON

.PHONY: pause
pause: ## Pause extraction; events are held (REASON="…" UNTIL=2026-12-01T08:00:00Z STACK=name)
	@$(call only,REASON UNTIL BY)tools/relay pause

.PHONY: resume
resume: ## Resume after a pause, or after the circuit breaker has opened (STACK=name)
	@$(call only,)tools/relay resume

.PHONY: status
status: ## Show what runs, what waits and for how long that is safe (STACK=name)
	@$(call only,)tools/relay status

.PHONY: quarantine
quarantine: ## List what is in quarantine, and why (STACK=name)
	@$(call only,)tools/relay quarantine

.PHONY: redrive
redrive: ## Send quarantined events back to the events queue (MAX=number STACK=name)
	@$(call only,MAX)tools/relay redrive

.PHONY: backfill
backfill: ## Queue events of the last 24 hours again, from Gladly's list (FROM=2026-12-01T08:00:00Z TO=time STACK=name)
	@$(call only,FROM TO)tools/relay backfill

.PHONY: import
import: ## Queue conversations of the last 14 days again, from Gladly's exports (FROM=time TO=time STACK=name)
	@$(call only,FROM TO)tools/relay import

## Ship it

.PHONY: package
package: $(PACKAGER)/.ready ## Build the functions for AWS into target/lambda/ (ARCH=arm64 or x86_64)
	$(call step,Building for $(ARCH) (about ten minutes the first time),PATH="$$PWD/$(PACKAGER)/bin:$$PATH" cargo lambda build --release --locked $(TARGET_$(ARCH)) --lambda-dir=target/lambda $(FUNCTIONS))

.PHONY: check-arm64
check-arm64: build ## Build the functions for arm64 and run them under an emulator (on Debian or Ubuntu)
	@$(MAKE) package ARCH=arm64
	$(call step,Running what was built for arm64,tools/check-arm64 $(BENCH))

.PHONY: sbom
sbom: $(CYCLONEDX)/bin/cargo-cyclonedx ## Write the functions' components into target/sbom/, as CycloneDX (ARCH as above)
	@PATH="$$PWD/$(CYCLONEDX)/bin:$$PATH" tools/sbom $(TRIPLE_$(ARCH)) target/sbom

.PHONY: deploy
deploy: tools ## Deploy what "make package" built with "sam deploy" (STACK=gladly-relay)
	@$(call only,)tools/deploy $(or $(STACK),gladly-relay)

$(CYCLONEDX)/bin/cargo-cyclonedx:
	@printf 'Building cargo-cyclonedx into $(CYCLONEDX) (two minutes, once)…\n'
	@cargo install --quiet --locked --version $(subst .tools/cyclonedx-,,$(CYCLONEDX)) --root $(CYCLONEDX) cargo-cyclonedx

$(FUZZER)/.ready:
	@printf 'Installing cargo-fuzz into %s (about a minute)…\n' $(FUZZER)
	@cargo install --quiet --locked --root=$(FUZZER) cargo-fuzz@0.13.2
	@touch $@

# A failed installation leaves no .ready behind, so the next try starts over.
$(TOOLS)/.ready: tools/local.txt
$(PACKAGER)/.ready: tools/package.txt
$(WORKFLOWS)/.ready: tools/workflows.txt
%/.ready:
	@printf 'Installing what %s lists into %s (about a minute)…\n' $< $*
	@python3 -m venv --clear $* && $*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement=$< \
	  || { printf 'The Python tools could not be installed: this needs Python 3.10 or newer with venv, and the Python package index.\n' >&2; exit 1; }
	@touch $@
