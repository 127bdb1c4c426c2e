#!/bin/bash
# Runs every fuzz target for a while: fuzz.sh [-quick] [DURATION|COUNTx] [package...]. Default: 30s each, all packages.
# Builds each package's test binary once. New inputs that fail are written to the package's testdata/fuzz.
# Before Go 1.27 the end of a DURATION can be reported as a failure "context deadline exceeded" without a failing input (Go issue
# 75804): such a target is run again, at most three times in all. A COUNT of inputs has no deadline.
# -quick leaves out coverage guidance: to instrument all dependencies takes ten minutes of CPU time the first time.
set -eu
cd "$(dirname "$0")/.."
. hack/lib.sh
export CGO_ENABLED=0
instrument=-fuzz=.
[ "${1:-}" != -quick ] || { instrument=; shift; }
duration=${1:-30s}
shift || true
[ $# -gt 0 ] || set -- ./...
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0
for dir in $(go list -f '{{.Dir}}' "$@"); do
  targets=$(cat "$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing\.F.*/\1/p')
  [ -n "$targets" ] || continue
  go test -c $instrument -o "$work/fuzz.test" "$dir"
  for t in $targets; do
    for attempt in 1 2 3; do
      result=0
      (cd "$dir" && "$work/fuzz.test" -test.run='^$' -test.fuzz="^$t\$" -test.fuzztime="$duration" -test.paniconexit0 -test.timeout=0 \
        -test.fuzzcachedir="$(go env GOCACHE)/fuzz/warren/${dir##*/}") >"$work/log" 2>&1 || result=$?
      [ "$result" != 0 ] && grep -q 'context deadline exceeded' "$work/log" && ! grep -q 'Failing input' "$work/log" || break
    done
    [ "$result" = 0 ] || {
      cat "$work/log" >&2
      echo "FAILED: $t in $dir" >&2
      exit 1
    }
    count=$((count + 1))
  done
done
echo "$count fuzz targets, $duration each"
