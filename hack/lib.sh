# Sourced by the scripts of this directory, in the repository's root: environment and steps that they share.
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false

# step NAME COMMAND...: runs a command and prints its duration.
step() {
  local name=$1 start=$SECONDS
  shift
  "$@" || {
    echo "FAILED: $name" >&2
    exit 1
  }
  echo "$((SECONDS - start))s $name"
}

# formatted fails for Go files that gofmt would change.
formatted() {
  local bad
  bad=$(gofmt -l $(git ls-files '*.go'))
  [ -z "$bad" ] || {
    echo "not formatted (gofmt -w): $bad" >&2
    return 1
  }
}

# static_checks are the steps without tests of `make check` and `make test`.
static_checks() {
  step gofmt formatted
  step "go mod tidy" go mod tidy -diff
  step "go vet" go vet ./...
  step "go vet -tags k8s" go vet -tags k8s ./...
  step lint hack/lint.sh
}
