#!/bin/bash
# Benchmarks, each with other programs for comparison in the same run. usage: hack/bench.sh [suite...] [rounds=N] [seconds=N]
# Suites: mesh services start join dns (bench/), cni (ADD and DEL, compared with ptp), packets (Go benchmarks of the packet path). Default: all.
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
suites=() options=()
for a in "$@"; do case $a in *=*) options+=("$a");; *) suites+=("$a");; esac; done
[ ${#suites[@]} -gt 0 ] || suites=(mesh services start join cni dns packets)
go build -o bin/wireguard-go golang.zx2c4.com/wireguard
go build -o bin/bench ./bench
for s in "${suites[@]}"; do
  case $s in
  cni)
    printf '\n## cni: ADD and DEL compared with the reference ptp + host-local\n\n'
    go run ./cni/cnibench -plugin bin ;;
  packets)
    printf '\n## packets: the cost of a packet\n\n'
    go test -run '^$' -bench . -benchmem ./internal/packet ./tunnel/... ./servicelb ./ipam | grep -E '^(Benchmark|ok|FAIL|---)' ;;
  *) bin/bench warren=bin/warren wireguard-go=bin/wireguard-go "$s" ${options[@]+"${options[@]}"} ;;
  esac
done
