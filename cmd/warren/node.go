package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
)

func nodeCmd() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "the cluster's nodes"}
	var former bool
	rm := &cobra.Command{
		Use:   "rm NAME",
		Short: "remove a node that does not return and release its Pod CIDRs",
		Long: "Remove a node that does not return and release its Pod CIDRs.\n\nA Pod CIDR belongs to its node until this command: it " +
			"has no lease, and no outage releases it.\n" +
			"A node whose agent is alive is refused. With --former it stays, and the command releases blocks that this name claimed\n" +
			"with earlier disks. If such a disk is used again, its Pods' addresses may belong to other Pods.",
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
			var freed []model.Block
			if former {
				freed, err = s.ReleaseFormer(c.Context(), args[0])
			} else {
				freed, err = s.DeleteNode(c.Context(), args[0], "")
			}
			if err != nil {
				return err
			}
			if former && len(freed) == 0 {
				fmt.Fprintf(c.OutOrStdout(), "node %s has no Pod CIDRs of earlier disks\n", args[0])
			}
			if !former {
				fmt.Fprintf(c.OutOrStdout(), "node %s removed\n", args[0])
			}
			for _, b := range freed {
				fmt.Fprintf(c.OutOrStdout(), "released %s\n", b.CIDR)
			}
			return nil
		},
	}
	rm.Flags().BoolVar(&former, "former", false, "keep the node and release only the Pod CIDRs of earlier disks under its name")
	configFlags(rm)
	c.AddCommand(rm)
	return c
}
