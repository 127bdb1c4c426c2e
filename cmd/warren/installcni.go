package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/atomicfile"
)

func installCNICmd() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "install-cni",
		Short: "put the CNI plugin where container runtimes look for it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			changed, err := installPlugin(from, to)
			if err != nil {
				return err
			}
			if changed {
				fmt.Fprintln(c.OutOrStdout(), "installed", to)
			} else {
				fmt.Fprintln(c.OutOrStdout(), to, "is this version already")
			}
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "/opt/warren/warren-cni", "the plugin to install")
	c.Flags().StringVar(&to, "to", "/opt/cni/bin/warren-cni", "where runtimes execute it")
	return c
}

// installPlugin replaces the file in one step: a runtime may execute it at any time, and a program that runs cannot be
// written to.
func installPlugin(from, to string) (changed bool, err error) {
	want, err := os.ReadFile(from)
	if err != nil {
		return false, err
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, want) {
		return false, os.Chmod(to, 0o755)
	}
	return true, atomicfile.Write(to, want, 0o755)
}
