#!/usr/bin/env bash
# A power cut: every process of these nodes dies, and all that their kernels knew of the network; then they start again,
# all at once, with another boot id.   reboot.sh [--new-disk] NODE...
source "$(dirname "$0")/lib.sh"
new=""; [[ ${1:-} != --new-disk ]] || { new=yes; shift; }
for n in "$@"; do stop_node "$n"; done
for n in "$@"; do
  ip netns del "$(ns "$n")"
  for _ in $(seq 100); do # the kernel takes the other end of its cable away in its own time
    ip -n "$(ns dc)" link show "p-$n" >/dev/null 2>&1 || break
    sleep 0.1
  done
  [[ -z $new ]] || rm -rf "${RIG_STATE:?}/$n"
  plug_node "$n"
  start_node "$n"
done
for n in "$@"; do until_ok 120 "$n" in_node "$n" test -e /run/rig/started; done
