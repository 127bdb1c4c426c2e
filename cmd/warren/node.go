package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/etcd"
)

func nodeCmd() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "the cluster's nodes"}
	rm := &cobra.Command{
		Use:   "rm NAME",
		Short: "remove a node that is gone for good and release its Pod CIDRs",
		Long: "Remove a node that is gone for good and release its Pod CIDRs.\n\nA Pod CIDR belongs to its node until this command is given: no lease ends it, no outage loses it.\n" +
			"A node whose agent is alive is refused.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			s, err := etcd.New(cfg.Etcd)
			if err != nil {
				return err
			}
			defer s.Close()
			freed, err := s.DeleteNode(c.Context(), args[0], "")
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "node %s removed\n", args[0])
			for _, b := range freed {
				fmt.Fprintf(c.OutOrStdout(), "released %s\n", b.CIDR)
			}
			return nil
		},
	}
	configFlags(rm)
	c.AddCommand(rm)
	return c
}
