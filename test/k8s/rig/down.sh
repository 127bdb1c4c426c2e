#!/usr/bin/env bash
# Ends everything that up.sh started; with --purge also removes the state (not the binaries).
source "$(dirname "$0")/lib.sh"
left=0
for n in "${nodes[@]}"; do stop_node "$n" || left=1; done
stop_process "$run/ext-dns.pid"
for n in ext dc x "${nodes[@]}"; do ip netns del "$(ns "$n")" 2>/dev/null || true; done
for n in "${nodes[@]}"; do rm -rf "${RIG_STATE:?}/$n"; done
[[ ${1:-} != --purge ]] || rm -rf "$pki" "$run" "$RIG_STATE/images"
rm -f "$run/nodes" "$run/families"
ip netns list | grep -E '^wk-' >&2 && left=1
grep -F "$RIG_STATE/n" /proc/self/mounts >&2 && left=1
exit $left
