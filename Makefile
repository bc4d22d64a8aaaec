# `make` alone says what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run build image test test-kubernetes lint fuzz tools bench chaos clean

help: ## say what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 25

run: ## three sample servers and the balancer in front of them; Ctrl-C stops all of it (LISTEN=127.0.0.1:8081)
	@exec test/run-sample.sh

build: ## the static binary bin/fnlb
	@./compile.sh

image: build ## the Docker images fnlb:latest and fnlb-sample:latest (BASE=debian:trixie-slim DOCKER=docker)
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/web ./sample/web
	@$(or $(DOCKER),docker) build --quiet --tag fnlb-sample:latest --file sample/web/Dockerfile .
	@$(or $(DOCKER),docker) build --tag fnlb:latest $(if $(BASE),--build-arg BASE=$(BASE)) \
	  $$(bin/fnlb version --json | sed -nE 's/.*"commit":"([^"]*)".*"version":"([^"]*)".*/--build-arg COMMIT=\1 --build-arg VERSION=\2/p') .

test: ## install what the tests need and run every check (FUZZ=5, seconds for each fuzz target)
	@exec test/run-tests.sh

test-kubernetes: ## build kube-apiserver and kubectl, get etcd, and run the tests that need them
	@test/install-tools.sh kubernetes && test/install-tools.sh haproxy
	@exec go test -race ./discovery/kubernetes ./test/kubetest ./test/kubernetes

lint: ## golangci-lint
	@test/install-tools.sh lint
	@exec bin/tools/golangci-lint run ./...

fuzz: ## each fuzz target for a while (FUZZ=60, seconds)
	@exec test/fuzz.sh $(or $(FUZZ),60)

tools: ## install what the tests need: packages, golangci-lint, HAProxy 2.6, 3.0 and 3.2, a Debian root for images, Kubernetes
	@exec test/install-tools.sh

bench: ## the figures that README quotes, into bench/results (about ten minutes)
	@exec bench/run.sh

chaos: ## five minutes of faults under load, at random; writes docs/faults.md (TIME=5m SEED=first number)
	@test/install-tools.sh
	@FNLB_CHAOS_TIME=$(or $(TIME),5m) FNLB_CHAOS_SEED=$(SEED) FNLB_CHAOS_REPORT=$(CURDIR)/docs/faults.md \
	  go test ./test/chaos -count 1 -timeout 60m -run TestChaos -v

clean: ## remove what was built
	rm -rf bin bench/results .haproxy .images
