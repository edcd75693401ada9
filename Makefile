# Every target but bench, chaos (of which ci/run has a short form), herd, interop, mutate, soak-kill, help and tidy is a stage of ci/run, so that a check by hand and
# the gate are the same commands.

.DEFAULT_GOAL := help
.PHONY: help test race lint fuzz mutate spec vet-all bench herd interop chaos metrics kill soak-kill ci

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## the tests, as README.md runs them
	go test ./...

race: ## the tests under the race detector, and which of them had no data
	ci/run race

lint: ## gofmt, the rules of the code base, staticcheck, the three requirements
	ci/run fmt rules static deps

fuzz: ## every fuzz target for a few seconds (FUZZTIME=5s)
	ci/run fuzz

mutate: ## break each guard's subject on purpose: the guard must notice
	ci/run mutate

spec: ## the protocol models, and mutations of them that must fail
	ci/run spec

vet-all: ## go vet for linux, darwin and windows
	ci/run vet

bench: ## compare with the peers, write docs/performance.md (BENCH="-rows P1,P3", or with another checkout: BENCH="-against DIR")
	cd bench && GOWORK=off go run . $(BENCH)

herd: ## simulate herds that come back, print the table, write the charts and figures of P15
	cd bench && GOWORK=off go run . -rows P15

interop: ## servers of other libraries, in a module of its own; installs them on Debian
	interop/install.sh && cd interop && GOWORK=off go vet ./... && GOWORK=off go test -race -count=1 ./...

chaos: ## gateways, engines and proxies that are killed, stopped and replaced under load; installs them on Debian (CHAOS="-run nodes -seed 7")
	gateway/install.sh && cd gateway && GOWORK=off go run ./internal/chaos $(CHAOS)

metrics: ## the modules in metrics/ and the example that uses one
	ci/run metrics

kill: ## 300 kills of a publisher with an outbox, 100 of a server with a file store, and a planted fault
	ci/run kill

soak-kill: ## 10,000 kills of each; what is done stays in soak-kill*.out, and a second call goes on there (KILL="-kills 1000 -seed 7")
	go run ./internal/kill -kills 10000 -journal soak-kill.out $(KILL)
	go run ./internal/kill -servers -kills 10000 -journal soak-kill-servers.out $(KILL)

ci: ## everything, in the order of ci/run
	ci/run
