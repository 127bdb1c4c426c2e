#!/bin/bash
# The complete suite as root: the static checks of hack/check.sh, static builds, every Go test, and every fuzz target for a
# fixed number of inputs. Arguments are passed to go test.
set -eu
cd "$(dirname "$0")/.."
. hack/lib.sh
if [ "$(id -u)" != 0 ]; then
  echo "make test works with network namespaces and must be run as root; make check needs no root" >&2
  exit 1
fi
static_checks
step build make --no-print-directory build
# Allocations cannot be counted under the race detector.
step "allocation tests" go test -count=1 -run 'Alloc' ./internal/packet ./tunnel/... ./servicelb/... ./dns
step "fuzz targets" hack/fuzz.sh -quick "${FUZZTIME:-20000x}"
# Compiled in parallel first, because -p 1 below holds for compiling too.
step "build with the race detector" env CGO_ENABLED=1 go build -race ./...
# -p 1: one package at a time, because the tests share two cores and the whole-node tests need both.
CGO_ENABLED=1 go test -race -count=1 -shuffle=on -timeout 14m -p 1 "$@" ./...
