package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/version"
)

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version of this program and of its wireguard-go",
		Args:  cobra.NoArgs,
		Run:   func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), versionText()) },
	}
}

// versionText is the output of `warren version` and `warren --version`.
func versionText() string {
	return fmt.Sprintf("warren %s\n%s %s/%s\nwireguard-go %s", version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		moduleVersion("golang.zx2c4.com/wireguard"))
}

// moduleVersion is the version of a Go module in this program.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}
