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
node_ip() {                                # n1 -> .11, n2 -> .12, ...; x, a machine more, -> .99
  local i
  [[ $1 != x ]] || { echo "$RIG_NET.99"; return; }
  for i in "${!nodes[@]}"; do [[ ${nodes[$i]} == "$1" ]] && echo "$RIG_NET.$((11 + i))" && return; done
  return 1
}
node_ip6() { [[ $1 == x ]] && echo "$RIG_NET6:99" || echo "$RIG_NET6:${1/#n/1}"; } # n1 -> ::11, ...
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
plug() {                                   # plug NAME ADDRESS ADDRESS6: a machine on the switch
  ip netns add "$(ns "$1")"
  ip -n "$(ns dc)" link add "p-$1" type veth peer name eth0 netns "$(ns "$1")"
  ip -n "$(ns dc)" link set "p-$1" master br0 up
  ip -n "$(ns "$1")" addr add "$2/24" dev eth0
  [[ $FAMILIES == ipv4 ]] || ip -n "$(ns "$1")" addr add "$3/64" dev eth0 nodad
  ip -n "$(ns "$1")" link set lo up; ip -n "$(ns "$1")" link set eth0 up
}
plug_node() {                              # nodes have a default route, as real ones do; the outside host forwards nothing
  plug "$1" "$(node_ip "$1")" "$(node_ip6 "$1")"
  ip -n "$(ns "$1")" route add default via "$ext_ip"
  [[ $FAMILIES == ipv4 ]] || ip -n "$(ns "$1")" -6 route add default via "$ext_ip6"
}
start_node() {                             # the machine's init, in namespaces and cgroups of its own
  local n=$1 c f dirs=()
  for c in $(cg_dirs "$n"); do
    mkdir -p "$c"; dirs+=("$c")
    for f in cpuset.cpus cpuset.mems; do [[ ! -f $c/$f ]] || cat "$c/../$f" >"$c/$f"; done
  done
  printf '%s\n' "${dirs[@]}" >"$run/$n.cgroups"
  setsid bash -c 'for c in "${@:3}"; do echo $$ >"$c/cgroup.procs"; done
    exec nsenter --net="/run/netns/wk-$1" unshare -m -u -i -p -C --fork --kill-child "$2/node-init.sh" "$1"' \
    start-node "$n" "$rig" "${dirs[@]}" >>"$run/$n.log" 2>&1 </dev/null &
  echo $! >"$run/$n.pid"
}
stop_process() {                           # stop_process PIDFILE
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  kill -9 "$p" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  rm -f "$1"
}
stop_node() {                              # kills its init, and with it the pid namespace; prints what is left of its cgroups
  local init c left=0
  init=$(node_pid "$1" || true)
  [[ -z $init ]] || kill -9 "$init" 2>/dev/null || true
  stop_process "$run/$1.pid"
  for c in $(cat "$run/$1.cgroups" 2>/dev/null); do
    for _ in $(seq 50); do
      find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [[ -d $c ]] || break
      sleep 0.1
    done
    [[ ! -d $c ]] || { echo "left: $c" >&2; left=1; }
  done
  rm -f "$run/$1.cgroups"
  return $left
}
