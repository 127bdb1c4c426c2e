# The commands of the README are `make lab`, `make check` and `make test`.
export CGO_ENABLED = 0
export GOTOOLCHAIN = local
VERSION := $(or $(VERSION),$(shell hack/version.sh))
LDFLAGS = -s -w -X github.com/warrennet/warren/internal/version.Version=$(VERSION)
GO = go
GOARCH ?= $(shell $(GO) env GOARCH)
OUT = bin

.PHONY: build sbom lab down check test fuzz lint test-k8s test-arm64 bench fmt deps cross

build:
	GOARCH=$(GOARCH) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(OUT)/warren ./cmd/warren
	GOARCH=$(GOARCH) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(OUT)/warren-cni ./cmd/warren-cni

lab: build
	@bin/warren lab down
	@bin/warren lab up
	@bin/warren lab demo

down:
	@bin/warren lab down

deps:
	@hack/deps.sh

# Before a commit, without root.
check:
	@hack/check.sh

lint:
	@hack/lint.sh

test: deps
	@hack/test.sh

# Longer than in `make test`: make fuzz FUZZTIME=10m
fuzz:
	@hack/fuzz.sh $(or $(FUZZTIME),30s)

# Not part of `make test`: builds Kubernetes once, which takes some ten minutes.
test-k8s:
	@hack/test-k8s.sh

# The parts that an emulator can carry, as arm64.
test-arm64:
	@hack/test-arm64.sh

bench: deps build
	@hack/bench.sh

# A software bill of materials (CycloneDX 1.6) of each program, from its build information.
sbom: build
	@hack/sbom.sh $(OUT)

cross:
	$(MAKE) build GOARCH=arm64 OUT=bin/arm64
	$(MAKE) build GOARCH=amd64 OUT=bin/amd64

fmt:
	gofmt -w $$(git ls-files '*.go')
