#!/bin/bash
# The quick check before a commit: format, vet, lint, modules, and the unit tests that need neither root nor network
# namespaces nor etcd processes. No root. hack/test.sh has the complete suite.
set -eu
cd "$(dirname "$0")/.."
. hack/lib.sh
export CGO_ENABLED=0
static_checks
# With -short, tests that need root or take long are skipped. The packages left out consist of such tests. Without -shuffle, which
# make test has, results of unchanged packages come from the cache.
packages=$(go list ./... | grep -v -E 'warren/(lab|cni|deploy|bench|test|internal/store/etcd)(/|$)')
step "unit tests" go test -short $packages
