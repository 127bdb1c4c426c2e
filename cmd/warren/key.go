package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/records"
)

func keyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "the WireGuard keys of the nodes"}
	c.AddCommand(keyRotateCmd())
	return c
}

func keyRotateCmd() *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "replace the WireGuard key of this node, or of all nodes, without packet loss",
		Long: "Replace the WireGuard key of this node, or of all nodes, without packet loss.\n\nThe node publishes its next key, " +
			"waits until all nodes have configured it, and switches to it. The command returns when the\nreplacement is complete. " +
			"With --all the nodes replace their keys one after the other, and the command returns at once.\n" +
			"`warren status` reports what a replacement waits for. External peers of a node lose their tunnel until they have its new key.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !all {
				return rotateKey(c, force)
			}
			return onNodes(func(c *cobra.Command, _ config.Config, s *etcd.Store, _ string) error {
				if err := s.RotateKeys(c.Context(), records.Rotation{Force: force}); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "all nodes replace their keys, one after the other")
				return nil
			})(c, nil)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "request it from every node, through etcd")
	c.Flags().BoolVar(&force, "force", false, "also if the node has external peers; with --all: every node")
	socketFlag(c)
	configFlags(c)
	return c
}

// rotateKey begins the replacement and waits until it is complete.
func rotateKey(c *cobra.Command, force bool) error {
	var k api.Key
	if err := callAgent(c, http.MethodPost, fmt.Sprintf("%s?force=%t", api.KeyPath, force), nil, &k); err != nil {
		return err
	}
	reported := ""
	for k.Rotating {
		if k.Problem != reported && k.Problem != "" {
			fmt.Fprintln(c.ErrOrStderr(), k.Problem)
		}
		reported = k.Problem
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(200 * time.Millisecond):
		}
		if err := callAgent(c, http.MethodGet, api.KeyPath, nil, &k); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.OutOrStdout(), "the public key is %s\n", k.Current)
	return nil
}
