package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent"
)

func uninstallCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "remove everything warren left on this node; the agent must be stopped",
		Long: "Remove everything warren left on this node: the interface, routes, rules, the CNI conflist and plugin, Pods'\n" +
			"interfaces, and put the sysctls back. The agent must be stopped. The node's records in etcd stay until\n`warren node rm`; its key, identity and blocks stay in the state directory unless --purge is given.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(c)
			if len(cfg.StateDir) == 0 && err != nil {
				return err
			}
			purge, err := c.Flags().GetBool("purge")
			if err != nil {
				return err
			}
			done, err := agent.Uninstall(cfg, purge, logger("warn"))
			for _, d := range done {
				fmt.Fprintln(c.OutOrStdout(), "removed", d)
			}
			return err
		},
	}
	configFlags(c)
	c.Flags().Bool("purge", false, "also remove the state directory: key, identity, blocks (this becomes a new node)")
	return c
}
