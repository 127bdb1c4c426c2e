//go:build tools

// Package tools names the command that build.sh builds.
package tools

import _ "github.com/flannel-io/flannel"
