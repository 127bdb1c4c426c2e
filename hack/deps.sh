#!/bin/bash
# deps.sh [k8s|arm64]: installs what the tests and benchmarks need from Debian; without root it prints what to install.
set -eu
need=()
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
while read -r cmd pkg only; do
  [ -z "$only" ] || [ "$only" = "${1:-}" ] || continue
  if [ "${cmd#/}" != "$cmd" ]; then [ -e "$cmd" ] || need+=("$pkg"); else have "$cmd" || need+=("$pkg"); fi
done <<'LIST'
ip iproute2
tc iproute2
wg wireguard-tools
iperf3 iperf3
tcpdump tcpdump
dig dnsutils
dnsperf dnsperf
curl curl
ping iputils-ping
ethtool ethtool
jq jq
sysctl procps
git git
python3 python3
gcc gcc
musl-gcc musl-tools
podman podman
crun crun
/lib/systemd/systemd systemd
systemd-analyze systemd
/usr/lib/cni/ptp containernetworking-plugins
runc runc k8s
qemu-aarch64-static qemu-user-static arm64
busybox busybox
conntrack conntrack
nft nftables
iptables iptables
openssl openssl k8s
wget wget k8s
dash dash k8s
nc netcat-openbsd k8s
iperf iperf k8s
ps procps k8s
nsenter util-linux k8s
LIST
[ ${#need[@]} -eq 0 ] && exit 0
mapfile -t need < <(printf '%s\n' "${need[@]}" | sort -u)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "missing: ${need[*]}; install them with: apt-get install ${need[*]}" >&2
  exit 1
fi
echo "installing ${need[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${need[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "could not install ${need[*]}" >&2
  exit 1
fi
