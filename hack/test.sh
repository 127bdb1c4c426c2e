#!/bin/bash
# Everything that proves warren: formatting, vet, staticcheck, static builds, then every Go test as root.
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
if [ "$(id -u)" != 0 ]; then
  echo "make test works with network namespaces and must be run as root" >&2
  exit 1
fi
bad=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$bad" ]; then
  echo "not formatted (gofmt -w): $bad" >&2
  exit 1
fi
go vet ./...
go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
make --no-print-directory build
# What the race detector makes uncountable.
go test -count=1 -run 'Alloc' ./internal/packet ./tunnel ./servicelb ./dns
# -p 1: the tests share two cores, and each package's whole-node tests want them for themselves.
CGO_ENABLED=1 go test -race -count=1 -timeout 14m -p 1 "$@" ./...
