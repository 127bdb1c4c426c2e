package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/cni/install"
)

func installCNICmd() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "install-cni",
		Short: "install the CNI plugin where container runtimes execute it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			changed, err := install.Plugin(from, to)
			if err != nil {
				return err
			}
			if changed {
				fmt.Fprintln(c.OutOrStdout(), "installed", to)
			} else {
				fmt.Fprintln(c.OutOrStdout(), to, "is up to date")
			}
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "/opt/warren/warren-cni", "the plugin to install")
	c.Flags().StringVar(&to, "to", "/opt/cni/bin/warren-cni", "file that container runtimes execute")
	return c
}
