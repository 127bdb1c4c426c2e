#!/bin/bash
# Benchmarks, each beside its peers in the same run. usage: hack/bench.sh [suite...] [rounds=N] [seconds=N]
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
go build -o bin/wireguard-go golang.zx2c4.com/wireguard
go build -o bin/bench ./bench
exec bin/bench warren=bin/warren wireguard-go=bin/wireguard-go "$@"
