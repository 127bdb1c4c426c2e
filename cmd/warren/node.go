package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/records"
)

func nodeCmd() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "the cluster's nodes"}
	c.AddCommand(nodeRmCmd(), nodeAllowCmd(), nodeRevokedCmd())
	return c
}

func nodeRmCmd() *cobra.Command {
	var former, revoke bool
	c := &cobra.Command{
		Use:   "rm NAME",
		Short: "remove a node that does not return and release its Pod CIDRs",
		Long: "Remove a node that does not return and release its Pod CIDRs.\n\nA Pod CIDR belongs to its node until this command: it " +
			"has no lease, and no outage releases it.\n" +
			"A node whose agent is alive is refused. With --former it stays, and the command releases blocks that this name claimed\n" +
			"with earlier disks. If such a disk is used again, its Pods' addresses may belong to other Pods.\n\n" +
			"With --revoke the node is removed although its agent is alive, and excluded for good: every agent ignores its name,\n" +
			"identity and public key, also while etcd is down, and warren's etcd refuses client certificates with its name.\n" +
			"`warren node allow` permits another machine to use the name.",
		Args: cobra.ExactArgs(1),
		RunE: onNodes(func(c *cobra.Command, cfg config.Config, s *etcd.Store, name string) error {
			switch {
			case revoke:
				return revokeNode(c, cfg, s, name)
			case former:
				freed, err := s.ReleaseFormer(c.Context(), name)
				if err == nil && len(freed) == 0 {
					fmt.Fprintf(c.OutOrStdout(), "node %s has no Pod CIDRs of earlier disks\n", name)
				}
				printReleased(c.OutOrStdout(), freed)
				return err
			}
			freed, err := s.DeleteNode(c.Context(), name, "")
			if err == nil {
				fmt.Fprintf(c.OutOrStdout(), "node %s removed\n", name)
			}
			printReleased(c.OutOrStdout(), freed)
			return err
		}),
	}
	c.Flags().BoolVar(&former, "former", false, "keep the node and release only the Pod CIDRs of earlier disks under its name")
	c.Flags().BoolVar(&revoke, "revoke", false, "exclude the node from the cluster for good, also while its agent is alive")
	c.MarkFlagsMutuallyExclusive("former", "revoke")
	configFlags(c)
	return c
}

func nodeAllowCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "allow NAME",
		Short: "permit another machine to use the name of a revoked node",
		Long: "Permit another machine to use the name of a revoked node.\n\nThe identity and the public key of the revoked machine " +
			"remain excluded, and its certificates refused.\n" +
			"A certificate of the new machine must begin to be valid after the revocation. Those of `warren pki client` begin one\n" +
			"hour before they are issued.",
		Args: cobra.ExactArgs(1),
		RunE: onNodes(func(c *cobra.Command, _ config.Config, s *etcd.Store, name string) error {
			if err := s.Allow(c.Context(), name, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "another machine may use the name %s\n", name)
			return nil
		}),
	}
	configFlags(c)
	return c
}

func nodeRevokedCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoked",
		Short: "list the revoked nodes",
		Args:  cobra.NoArgs,
		RunE: onNodes(func(c *cobra.Command, _ config.Config, s *etcd.Store, _ string) error {
			list, err := s.Revocations(c.Context())
			if err != nil {
				return err
			}
			for _, r := range list {
				note := ""
				if r.NameAllowed {
					note = ", another machine may use the name"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s revoked at %s: %d identities, %d public keys%s\n", r.Node, r.Revoked.Format(time.RFC3339),
					len(r.Identities), len(r.PublicKeys), note)
			}
			return nil
		}),
	}
	configFlags(c)
	return c
}

// onNodes runs a command with the node's settings, the store and its argument, "" without one.
func onNodes(f func(*cobra.Command, config.Config, *etcd.Store, string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		s, err := etcd.New(cfg.Etcd)
		if err != nil {
			return err
		}
		defer s.Close()
		return f(c, cfg, s, append(args, "")[0])
	}
}

func printReleased(w io.Writer, freed []model.Block) {
	for _, b := range freed {
		fmt.Fprintf(w, "released %s\n", b.CIDR)
	}
}

// revokeNode excludes a node and verifies that it has lost its access to the store.
func revokeNode(c *cobra.Command, cfg config.Config, s *etcd.Store, name string) error {
	if name == cfg.NodeName {
		return fmt.Errorf("node %s is this node: run the command on a node that remains", name)
	}
	done, err := s.Revoke(c.Context(), name, time.Now())
	out := c.OutOrStdout()
	if !done.Revocation.Revoked.IsZero() {
		fmt.Fprintf(out, "node %s revoked\n", name)
		printReleased(out, done.Released)
	}
	if err != nil {
		return err
	}
	for _, x := range done.Shared {
		fmt.Fprintf(out, "not revoked, because the record of another node has it as well: %s\n", x)
	}
	if note := certificateNote(cfg, name); note != "" {
		fmt.Fprintln(out, note)
	}
	for _, x := range done.Aliases {
		fmt.Fprintf(out, "not revoked, perhaps the same machine under another name: %s\n", x)
	}
	if err := verifyRevoked(c.Context(), s, done.Revocation); err != nil {
		return err
	}
	return incomplete(done)
}

// incomplete returns an error if the machine of a revoked node may remain under the name of another node.
func incomplete(done records.Revoked) error {
	if len(done.Shared) == 0 {
		return nil
	}
	return fmt.Errorf("node %s is revoked, but another node's record has the same %s, which is not revoked: if it is the same machine, "+
		"revoke that node as well", done.Revocation.Node, strings.Join(done.Shared, ", "))
}

// certificateNote returns why the store may still accept the node's certificate, "" if it does not.
func certificateNote(cfg config.Config, name string) string {
	if cfg.Etcd.CertFile == "" {
		return "etcd is used without client certificates: the node keeps its access to etcd until its password is changed there"
	}
	pair, err := tls.LoadX509KeyPair(cfg.Etcd.CertFile, cfg.Etcd.KeyFile)
	if err != nil {
		return fmt.Sprintf("cannot compare certificate names: %v", err)
	}
	if have := pair.Leaf.Subject.CommonName; have != cfg.NodeName {
		return fmt.Sprintf("warren's etcd refuses certificates with the common name %s; that of this node is %s. If the nodes share a "+
			"certificate, replace the certificate authority (warren pki rotate): until then the node keeps its access to etcd", name, have)
	}
	return ""
}

// A revoked node writes its records again as long as it has access. verifyFor is how long that is observed.
const (
	verifyEvery = 250 * time.Millisecond
	verifyFor   = 2 * time.Second
)

// verifyRevoked deletes what the node writes again. The members refuse its certificate soon; it fails if the node still writes in
// the second half of the time.
func verifyRevoked(ctx context.Context, s *etcd.Store, r model.Revocation) error {
	writes := false
	for start := time.Now(); time.Since(start) < verifyFor; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(verifyEvery):
		}
		late := time.Since(start) > verifyFor/2
		written, err := s.Purge(ctx, r)
		if err != nil {
			return err
		}
		writes = writes || late && written
	}
	if writes {
		return fmt.Errorf("node %s is revoked, and agents ignore it, but it still writes to etcd: %w", r.Node, records.ErrAccess)
	}
	return nil
}
