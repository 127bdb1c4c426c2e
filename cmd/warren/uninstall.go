package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent"
)

func uninstallCmd() *cobra.Command {
	var o agent.UninstallOptions
	var idle bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "remove all traces of warren from this node; the agent must be stopped",
		Long: "Remove all traces of warren from this node: the interface, routes, rules, the CNI conflist and plugin, Pods'\n" +
			"interfaces, and restore the sysctls. The agent must be stopped. The node's records in etcd stay until\n`warren node rm`; " +
			"its key, identity and blocks stay in the state directory unless --purge is given.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if idle {
				<-c.Context().Done()
				return nil
			}
			cfg, err := loadConfig(c)
			if len(cfg.StateDir) == 0 && err != nil {
				return err
			}
			done, err := agent.Uninstall(cfg, o, logger("warn"))
			for _, d := range done {
				fmt.Fprintln(c.OutOrStdout(), "removed", d)
			}
			return err
		},
	}
	configFlags(c)
	c.Flags().BoolVar(&o.Purge, "purge", false, "also remove the state directory: key, identity, blocks (the machine joins as a new node)")
	c.Flags().StringVar(&o.Plugin, "plugin", "/opt/cni/bin/warren-cni", "CNI plugin to remove; empty for none")
	c.Flags().StringVar(&o.Results, "cni-results", "/var/lib/cni/results",
		"directory of the runtime's cached plugin results; --purge removes those of warren")
	c.Flags().BoolVar(&idle, "idle", false, "do nothing until stopped: for a DaemonSet whose init container uninstalls")
	return c
}
