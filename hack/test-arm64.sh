#!/bin/bash
# The tests that an emulator can carry, as arm64: packets, load balancing, addresses, names, the tunnel. A whole
# node is too much for it: qemu-user knows no rule messages of netlink, and no bpf(2).
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
hack/deps.sh arm64
GOARCH=arm64 go vet ./cmd/... ./agent
# Tests that start processes of their own are left out, since those would have to be emulated, too.
GOARCH=arm64 go test -count=1 -exec qemu-aarch64-static \
  -skip 'Offload|Kernel|UnderlayMTU|Adoption|OnlyCiphertext|StockPeer|WG|Delete|Router|SeveralUnderlay' \
  ./internal/packet ./servicelb ./servicelb/internal/... ./ipam ./internal/store/disk ./dns ./tunnel "$@"
