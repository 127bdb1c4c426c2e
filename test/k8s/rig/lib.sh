# Shared settings and helpers; sourced, not run.
set -euo pipefail
rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${RIG_STATE:=${TMPDIR:-/tmp}/warren-k8s}"   # must not lie below /etc, /opt, /run or /var
: "${RIG_BIN:=$RIG_STATE/bin}"
run=$RIG_STATE/run pki=$RIG_STATE/pki
# the first node is also the control plane; what is up stays known in $run/nodes
: "${RIG_NODES:=$(cat "$run/nodes" 2>/dev/null || echo n1 n2 n3)}"
: "${FAMILIES:=$(cat "$run/families" 2>/dev/null || echo dual)}" # dual or ipv4, known like the nodes
: "${RIG_NET:=192.168.87}" "${RIG_NET6:=fd87:}" # the "data-centre" network, /24 and /64
case $FAMILIES in
ipv4) : "${POD_CIDR:=10.42.0.0/16}" "${SVC_CIDR:=10.43.0.0/16}" "${DNS_IP:=10.43.0.10}" ;;
dual) : "${POD_CIDR:=10.42.0.0/16,fd42::/48}" "${SVC_CIDR:=10.43.0.0/16,fd43::/112}" "${DNS_IP:=10.43.0.10,fd43::a}" ;;
*) echo "FAMILIES=$FAMILIES is neither dual nor ipv4" >&2; exit 2 ;;
esac
: "${SVC_API:=10.43.0.1}" "${DNS_DOMAIN:=cluster.local}"
export RIG_STATE RIG_BIN RIG_NODES RIG_NET RIG_NET6 FAMILIES POD_CIDR SVC_CIDR SVC_API DNS_IP DNS_DOMAIN
read -r -a nodes <<<"$RIG_NODES"
cp_node=${nodes[0]}
ext_ip=$RIG_NET.200 ext_ip6=$RIG_NET6:200

ns() { echo "wk-$1"; }                     # network namespace of a node (or dc, ext)
node_ip() {                                # n1 -> .11, n2 -> .12, ...
  local i
  for i in "${!nodes[@]}"; do [[ ${nodes[$i]} == "$1" ]] && echo "$RIG_NET.$((11 + i))" && return; done
  return 1
}
node_ip6() { echo "$RIG_NET6:${1/#n/1}"; }  # n1 -> ::11, n2 -> ::12, ...
node_ips() { # both, as a kubelet wants them
  echo "$(node_ip "$1")$([[ $FAMILIES == ipv4 ]] || echo ",$(node_ip6 "$1")")"
}
api=https://$(node_ip "$cp_node"):6443
export KUBECONFIG=$pki/admin.kubeconfig

node_pid() {                               # host pid of a node's init
  local p; p=$(cat "$run/$1.pid" 2>/dev/null) || return 1
  ps -o pid= --ppid "$p" | tr -d ' \n'
}
in_node() {                                # in_node n2 CMD...: in all of n2's namespaces and cgroups
  local n=$1 p; p=$(node_pid "$n"); shift
  [[ -n $p ]] || { echo "node $n is not up" >&2; return 1; }
  PATH=$RIG_BIN:$PATH bash -c 'while read -r c; do echo $$ >"$c/cgroup.procs"; done <"$1"
    exec nsenter -t "$2" -m -u -i -n -p -C -- "${@:3}"' in_node "$run/$n.cgroups" "$p" "$@"
}
in_ext() { ip netns exec "$(ns ext)" env PATH="$RIG_BIN:$PATH" "$@"; }
k() { in_ext kubectl "$@"; }
until_ok() {                               # until_ok SECONDS WHAT CMD...
  local t=$1 what=$2 end=$((SECONDS + $1)); shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "not within ${t}s: $what" >&2; return 1; }
    sleep 0.5
  done
}
# cgroup directories (v1 hierarchies, or v2) below this process' own, for one node
cg_dirs() {
  local line ctl path
  while IFS=: read -r _ ctl path; do
    ctl=${ctl#name=}
    if [[ -z $ctl ]]; then
      [[ -f /sys/fs/cgroup/cgroup.controllers ]] && echo "/sys/fs/cgroup${path%/}/warren-k8s-$1"
    elif [[ -d /sys/fs/cgroup/$ctl ]]; then
      echo "/sys/fs/cgroup/$ctl${path%/}/warren-k8s-$1"
    fi
  done </proc/self/cgroup
  return 0
}
