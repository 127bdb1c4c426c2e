#!/bin/bash
# From the write of an EndpointSlice to the first connection on the new backend, and what it costs, at growing numbers of
# Services: warren, then kube-proxy in nftables mode, each on the same fresh cluster of test/k8s/rig, driven by the same
# API server build.
#   hack/bench-k8s.sh [services=100,1000,10000] [tries=40]
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local
services=100,1000,10000 tries=40
for a in "$@"; do
  case $a in
  services=*) services=${a#*=} ;;
  tries=*) tries=${a#*=} ;;
  *) echo "unknown argument $a; expected services=N,N,... or tries=N" >&2; exit 2 ;;
  esac
done
rig=$PWD/test/k8s/rig
export RIG_STATE=${RIG_STATE:-${TMPDIR:-/tmp}/warren-k8s}
export RIG_BIN=${K8S_BIN:-$RIG_STATE/bin}
hack/deps.sh k8s
[ -x "$RIG_BIN/kube-proxy" ] || "$rig/build.sh" "$RIG_BIN"
make --no-print-directory build
mkdir -p "$RIG_STATE/images-extra"
deploy/image.sh "$RIG_STATE/images-extra/warren.tar"
CGO_ENABLED=0 go build -o "$RIG_STATE/bench" ./test/k8s/bench
trap '"$rig/down.sh"' EXIT
export FAMILIES=ipv4 # of which the reference network has no other
k() { "$rig/in.sh" ext kubectl "$@"; }
backend() { # a Pod on n2
  k create deployment backend --image=localhost/agnhost:rig -- /agnhost netexec >/dev/null
  k patch deployment backend -p '{"spec":{"template":{"spec":{"nodeName":"n2"}}}}' >/dev/null
  k rollout status deployment/backend --timeout=90s >/dev/null
  for _ in $(seq 100); do
    ip=$(k get pods -l app=backend --field-selector=spec.nodeName=n2,status.phase=Running -o jsonpath='{.items[0].status.podIP}') && [ -n "$ip" ] && break
    sleep 0.2
  done
}
measure() { # NAME PROCESSES
  backend
  "$rig/in.sh" n1 "$RIG_STATE/bench" -kubeconfig "$RIG_STATE/pki/admin.kubeconfig" -backend "$ip:8080" -name "$1" -process "$2" -services "$services" -tries "$tries"
}
"$rig/down.sh" >/dev/null 2>&1 || true
"$rig/up.sh" >/dev/null
k label node n1 node-role.kubernetes.io/control-plane= >/dev/null
k apply -f deploy/kubeadm/warren.yaml >/dev/null
k wait --for=condition=Ready node --all --timeout=120s >/dev/null
measure warren '/warren agent'
"$rig/down.sh"
"$rig/up.sh" >/dev/null
"$rig/reference.sh" >/dev/null
measure kube-proxy 'kube-proxy|/coredns'
