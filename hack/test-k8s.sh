#!/bin/bash
# A real three-node Kubernetes in network namespaces, with warren as its only network: builds it (once), starts it,
# deploys deploy/kubeadm/warren.yaml, runs test/k8s, and takes everything down again. The cluster is dual-stack; that of
# the migration, a second one, is IPv4 only, as the network that it comes from and goes back to: flannel.
#   hack/test-k8s.sh [go test flags]     KEEP=1 leaves the cluster up; K8S_BIN names a directory with built programs
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local
if [ "$(id -u)" != 0 ]; then
  echo "make test-k8s works with network namespaces and must be run as root" >&2
  exit 1
fi
hack/deps.sh k8s
rig=$PWD/test/k8s/rig
export RIG_STATE=${RIG_STATE:-${TMPDIR:-/tmp}/warren-k8s}
export RIG_BIN=${K8S_BIN:-$RIG_STATE/bin}
if [ ! -x "$RIG_BIN/kube-proxy" ]; then
  echo "building Kubernetes, containerd, CoreDNS and flannel (some ten minutes on two cores, once)"
  "$rig/build.sh" "$RIG_BIN"
fi
[ -x "$RIG_BIN/flanneld" ] || "$rig/build.sh" "$RIG_BIN" flanneld # binaries from before the migration was from flannel
make --no-print-directory build
mkdir -p "$RIG_STATE/images-extra"
deploy/image.sh "$RIG_STATE/images-extra/warren.tar"
down() { [ -n "${KEEP:-}" ] || "$rig/down.sh"; }
trap down EXIT
"$rig/down.sh" >/dev/null 2>&1 || true
"$rig/up.sh"
if [ $# -gt 0 ]; then
  go test -tags k8s -count=1 -timeout 30m -v -skip 'TestMigration|TestRBAC' "$@" ./test/k8s
  exit
fi
go test -tags k8s -count=1 -timeout 30m -v -skip 'TestMigration|TestUninstall|TestRBAC' ./test/k8s
# Afterwards, since it removes warren from a node of the cluster that the other tests use.
WARREN_K8S_DEPLOYED=1 go test -tags k8s -count=1 -timeout 10m -v -run TestUninstall ./test/k8s
go test -tags k8s -count=1 -v ./test/k8s/dns
# After all tests of this cluster: it compares what warren did with what its roles permit.
WARREN_K8S_DEPLOYED=1 WARREN_K8S_AUDIT=1 go test -tags k8s -count=1 -timeout 5m -v -run TestRBAC ./test/k8s
"$rig/down.sh"
export FAMILIES=ipv4
"$rig/up.sh"
WARREN_K8S_MIGRATE=1 go test -tags k8s -count=1 -timeout 15m -v -run TestMigration ./test/k8s
