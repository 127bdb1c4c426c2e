#!/bin/bash
# Lints the packages with the tools of hack/tools/go.mod: staticcheck (staticcheck.conf), revive (revive.toml) and misspell.
#   hack/lint.sh [package...]     default: all, with the files of -tags k8s
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
root=$PWD
GOBIN=$root/bin/tools go -C hack/tools install honnef.co/go/tools/cmd/staticcheck github.com/mgechev/revive \
  github.com/client9/misspell/cmd/misspell
[ $# -gt 0 ] || set -- ./...
failed=0
bin/tools/staticcheck -tags k8s "$@" || failed=1
bin/tools/revive -config revive.toml -formatter plain "$@" || failed=1
if [ "$*" = ./... ]; then
  git ls-files '*.go' '*.md' '*.sh' '*.yaml' Makefile | xargs bin/tools/misspell -error || failed=1
fi
exit $failed
