#!/bin/bash
# Writes a software bill of materials (CycloneDX 1.6, JSON) of each program of warren in a directory, as PROGRAM.cdx.json: sbom.sh [DIR]
# It lists the modules that the linker has put into the program, with their versions and checksums.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
dir=$(realpath "${1:-bin}")
for program in warren warren-cni; do
  [ -x "$dir/$program" ] || { echo "$dir/$program is missing: run make build" >&2; exit 1; }
  go -C hack/tools tool cyclonedx-gomod bin -json -noserial -output-version 1.6 -version "$(hack/version.sh)" \
    -output "$dir/$program.cdx.json" "$dir/$program" 2>"$dir/$program.log" || { cat "$dir/$program.log" >&2; exit 1; }
  rm -f "$dir/$program.log"
  echo "$dir/$program.cdx.json"
done
