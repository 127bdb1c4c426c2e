#!/bin/bash
# Prints the version of this tree, a semantic version (semver.org) from the git tags v0.1.0, v0.2.0 and so on:
#   0.2.0                     at the tag v0.2.0
#   0.2.1-dev.5+g1a2b3c4      five commits after it: a pre-release of the next patch version
#   0.1.0-dev.290+g1a2b3c4    without a tag: a pre-release of the first version, with the number of all commits
# ".dirty" follows when tracked files differ from the commit. Outside of a git repository: 0.1.0-dev.
set -eu
cd "$(dirname "$0")/.."
if ! git rev-parse --verify -q HEAD >/dev/null 2>&1; then
  echo 0.1.0-dev
  exit 0
fi
dirty=
git diff-index --quiet HEAD -- || dirty=dirty
commit=g$(git rev-parse --short=7 HEAD)
if tag=$(git describe --tags --match 'v[0-9]*.[0-9]*.[0-9]*' --abbrev=0 2>/dev/null); then
  base=${tag#v}
  count=$(git rev-list --count "$tag..HEAD")
  if [ "$count" = 0 ]; then
    echo "$base${dirty:++$dirty}"
    exit 0
  fi
  case $base in
  *-*) base=$base.dev.$count ;; # after a pre-release: v0.2.0-rc.1
  *) base=${base%.*}.$((${base##*.} + 1))-dev.$count ;;
  esac
else
  base=0.1.0-dev.$(git rev-list --count HEAD)
fi
echo "$base+$commit${dirty:+.$dirty}"
