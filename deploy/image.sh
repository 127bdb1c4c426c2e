#!/bin/bash
# Makes the image as a docker archive, without a container engine: image.sh FILE.tar
# Settings: GOARCH (amd64, arm64), IMAGE (localhost/warren:dev), VERSION (hack/version.sh). The same tree gives the same bytes.
# The image has two tags: IMAGE, and the same name with the version ("+" becomes "-", which tags cannot contain).
# Load it with: ctr -n k8s.io images import FILE.tar, podman load -i FILE.tar, or docker load -i FILE.tar.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 FILE.tar" >&2; exit 2; }
out=$(realpath -m "$1")
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin CGO_ENABLED=0 GOFLAGS=-buildvcs=false
arch=${GOARCH:-$(go env GOARCH)}
image=${IMAGE:-localhost/warren:dev}
version=${VERSION:-$(hack/version.sh)}
tagged=${image%:*}:${version//+/-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root/etc" "$root/opt/warren"
make --no-print-directory -s build GOARCH="$arch" OUT="$work/bin" VERSION="$version"
install -m 755 "$work/bin/warren" "$root/warren"
install -m 755 "$work/bin/warren-cni" "$root/opt/warren/warren-cni"
install -m 644 deploy/image/passwd deploy/image/group "$root/etc/"
chmod 755 "$root" "$root/etc" "$root/opt" "$root/opt/warren"

pack() { tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -cf "$2" "${@:3}"; }
mkdir "$work/image"
pack "$root" "$work/image/layer.tar" .
id=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
cat >"$work/image/config.json" <<J
{"architecture":"$arch","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Entrypoint":["/warren"],"Env":["PATH=/"],"Labels":{"org.opencontainers.image.title":"warren","org.opencontainers.image.version":"$version"}},"rootfs":{"type":"layers","diff_ids":["sha256:$id"]}}
J
[ "$tagged" = "$image" ] && tags="\"$image\"" || tags="\"$image\",\"$tagged\""
echo "[{\"Config\":\"config.json\",\"RepoTags\":[$tags],\"Layers\":[\"layer.tar\"]}]" >"$work/image/manifest.json"
mkdir -p "$(dirname "$out")"
pack "$work/image" "$work/out.tar" config.json layer.tar manifest.json
mv "$work/out.tar" "$out"
echo "$image $version ($arch): $out"
