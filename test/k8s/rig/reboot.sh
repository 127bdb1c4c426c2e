#!/usr/bin/env bash
# A power cut: every process of these nodes dies, and all that their kernels knew of the network; then they start again,
# all at once, with another boot id.   reboot.sh [--new-disk] NODE...
source "$(dirname "$0")/lib.sh"
new=""; [[ ${1:-} != --new-disk ]] || { new=yes; shift; }
for n in "$@"; do stop_node "$n"; done
for n in "$@"; do
  ip netns del "$(ns "$n")"
  # Not left to the removal of the namespace: that is delayed, and mount namespaces of other programs may hold it.
  ip -n "$(ns dc)" link del "p-$n" 2>/dev/null || true
  [[ -z $new ]] || rm -rf "${RIG_STATE:?}/$n"
  plug_node "$n"
  start_node "$n"
done
for n in "$@"; do until_ok 120 "$n" in_node "$n" test -e /run/rig/started; done
