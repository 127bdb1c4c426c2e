#!/usr/bin/env bash
# Ends everything that up.sh started; with --purge also removes the state (not the binaries).
source "$(dirname "$0")/lib.sh"
left=0
stop() { # stop PIDFILE
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  kill -9 "$p" 2>/dev/null || true       # a node: the pid namespace ends with its init
  for _ in $(seq 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  rm -f "$1"
}
for f in "$run"/*.pid; do
  [[ -e $f ]] || continue
  n=$(basename "$f" .pid)
  init=$(node_pid "$n" || true)
  [[ -z $init || $n == ext-dns ]] || kill -9 "$init" 2>/dev/null || true
  stop "$f"
done
for n in "${nodes[@]}"; do
  for c in $(cat "$run/$n.cgroups" 2>/dev/null); do
    for _ in $(seq 50); do
      find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [[ -d $c ]] || break
      sleep 0.1
    done
    [[ ! -d $c ]] || { echo "left: $c" >&2; left=1; }
  done
  rm -f "$run/$n.cgroups"
done
for n in ext dc "${nodes[@]}"; do ip netns del "$(ns "$n")" 2>/dev/null || true; done
for n in "${nodes[@]}"; do rm -rf "${RIG_STATE:?}/$n"; done
[[ ${1:-} != --purge ]] || rm -rf "$pki" "$run" "$RIG_STATE/images"
rm -f "$run/nodes" "$run/families"
ip netns list | grep -E '^wk-' >&2 && left=1
grep -F "$RIG_STATE/n" /proc/self/mounts >&2 && left=1
exit $left
