#!/bin/bash
# From the creation of a Pod to its first packet and its first answer of a Service, one by one and many at once; from the
# write of an EndpointSlice to the first connection on the new backend, and what it costs, at growing numbers of
# Services: warren, then kube-proxy in nftables mode with CoreDNS and flannel (without a C compiler: static routes in its
# place), each on the same fresh cluster of test/k8s/rig, driven by the same API server build.
#   hack/bench-k8s.sh [services=100,1000,10000] [tries=40] [pods=20] [burst=100] [only=warren|reference]
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local
services=100,1000,10000 tries=40 pods=20 burst=100 only=
for a in "$@"; do
  case $a in
  services=*) services=${a#*=} ;;
  tries=*) tries=${a#*=} ;;
  pods=*) pods=${a#*=} ;;
  burst=*) burst=${a#*=} ;;
  only=*) only=${a#*=} ;;
  *) echo "unknown argument $a; expected services=N,N,..., tries=N, pods=N, burst=N or only=NAME" >&2; exit 2 ;;
  esac
done
rig=$PWD/test/k8s/rig
export RIG_STATE=${RIG_STATE:-${TMPDIR:-/tmp}/warren-k8s}
export RIG_BIN=${K8S_BIN:-$RIG_STATE/bin}
hack/deps.sh k8s
[ -x "$RIG_BIN/kube-proxy" ] || "$rig/build.sh" "$RIG_BIN"
[ -x "$RIG_BIN/flanneld" ] || "$rig/build.sh" "$RIG_BIN" flanneld
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
one_dns() { # on the node that is measured, as there is one agent of warren's
  k -n kube-system scale deployment/coredns --replicas=1 >/dev/null
  k -n kube-system patch deployment coredns -p '{"spec":{"template":{"spec":{"nodeName":"n1"}}}}' >/dev/null
  k -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null
}
measure() { # NAME PROCESSES
  backend
  "$rig/in.sh" n1 "$RIG_STATE/bench" -kubeconfig "$RIG_STATE/pki/admin.kubeconfig" -backend "$ip:8080" -name "$1" -process "$2" -services "$services" -tries "$tries" \
    -pods "$pods" -burst "$burst" -pod-node n3 -pod-runtime "${RIG_NET:-192.168.87}.13:1338"
}
"$rig/down.sh" >/dev/null 2>&1 || true
if [ "$only" != reference ]; then
  "$rig/up.sh" >/dev/null
  k label node n1 node-role.kubernetes.io/control-plane= >/dev/null
  k apply -f deploy/kubeadm/warren.yaml >/dev/null
  k wait --for=condition=Ready node --all --timeout=120s >/dev/null
  measure warren '/warren agent'
  "$rig/in.sh" n3 curl -s http://127.0.0.1:9551/metrics | awk '/^warren_cni_add_duration_seconds_sum/{s=$2} /^warren_cni_add_duration_seconds_count/{printf "warren plugin to agent: %.1fms/ADD of %d\n", 1000*s/$2, $2}'
  "$rig/down.sh"
fi
if [ "$only" != warren ]; then
  "$rig/up.sh" >/dev/null
  if [ -x "$RIG_BIN/flanneld" ]; then
    "$rig/reference.sh" flannel proxy dns >/dev/null
    one_dns
    measure kube-proxy+CoreDNS+flannel 'kube-proxy|/coredns|flanneld'
  else
    "$rig/reference.sh" >/dev/null
    one_dns
    measure kube-proxy+CoreDNS 'kube-proxy|/coredns'
  fi
fi
