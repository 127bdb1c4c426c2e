// Package version holds the version that all programs of a build carry. It owns nothing else.
package version

// Version is a semantic version that the build sets from the git tags: see hack/version.sh and the Makefile. A program
// that was built without them has this value.
var Version = "0.1.0-dev"
