#!/usr/bin/env bash
# Builds every binary of the rig through the Go module proxy.
#   build.sh [DIR] [NAME...]     DIR: default ${RIG_STATE}/bin; NAME: only these
# CPU_LOCK, if set, is a lock file taken for each build command in turn, so
# that the machine's cores can be shared with others who measure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${RIG_STATE:-${TMPDIR:-/tmp}/warren-k8s}
out=${1:-$state/bin}; shift || true
mkdir -p "$out"; out=$(cd "$out" && pwd)
export GOFLAGS="-trimpath -buildvcs=false" CGO_ENABLED=0
for c in runc busybox dash nft iptables ip ss openssl jq curl wget dig nc iperf conntrack; do
  command -v $c >/dev/null || echo "missing: $c (see README.md, packages)" >&2
done
[[ -x /usr/lib/cni/bridge ]] || echo "missing: the CNI reference plugins (see README.md, packages)" >&2
jobs=${RIG_BUILD_JOBS:-2}

K8S=$(sed -n 's#^require k8s.io/kubernetes \(v[0-9.]*\)$#\1#p;s#^\tk8s.io/kubernetes \(v[0-9.]*\)$#\1#p' "$here/mod/k8s/go.mod" | head -1)
CTD=$(sed -n 's#.*containerd/containerd/v2 \(v[0-9.]*\)$#\1#p' "$here/mod/containerd/go.mod" | head -1)
minor=${K8S#v1.}; minor=${minor%%.*}
ver=""
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  ver+=" -X $p.gitVersion=$K8S -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean -X $p.gitCommit=0000000000000000000000000000000000000000 -X $p.buildDate=1970-01-01T00:00:00Z"
done
ctdver="-X github.com/containerd/containerd/v2/version.Version=$CTD"

wanted() { [[ ${#only[@]} -eq 0 ]] || [[ " ${only[*]} " == *" $1 "* ]]; }
only=("$@")
# b MODULE NAME LDFLAGS go-args...
b() {
  local mod=$1 name=$2 ld=$3; shift 3
  wanted "$name" || return 0
  local t0=$SECONDS
  local cmd=(nice -n 10 go "$1" -p "$jobs" -ldflags "-s -w $ld" -o "$out/$name" "${@:2}")
  if [[ -n ${CPU_LOCK:-} ]]; then cmd=(flock "$CPU_LOCK" "${cmd[@]}"); fi
  rm -f "$out/$name"
  (cd "$here/mod/$mod" && "${cmd[@]}")
  printf '%-26s %4ds %s\n' "$name" $((SECONDS - t0)) "$(du -h "$out/$name" | cut -f1)"
}
b k8s etcd ""                              build ./etcd
b k8s pause ""                             build ./pause
for c in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet; do
  b k8s $c "$ver"                          build k8s.io/kubernetes/cmd/$c
done
for c in containerd containerd-shim-runc-v2 ctr; do
  b containerd $c "$ctdver"                build -tags no_btrfs github.com/containerd/containerd/v2/cmd/$c
done
b k8s agnhost "$ver"                       build k8s.io/kubernetes/test/images/agnhost
if wanted agnhost; then # the key pair that the image's TLS server reads
  src=$(cd "$here/mod/k8s" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter
  mkdir -p "$out/porter"; cp -f "$src"/localhost.{crt,key} "$out/porter/"
fi
b coredns coredns ""                       build .
if command -v gcc >/dev/null; then # one of its backends is C
  CGO_ENABLED=1 b flannel flanneld ""      build github.com/flannel-io/flannel
fi
b k8s kube-proxy "$ver"                    build k8s.io/kubernetes/cmd/kube-proxy
