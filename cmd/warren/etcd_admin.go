package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/etcd/admin"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/registry"
)

// etcdFlags are the flags with which commands reach the etcd servers. Their defaults are the agent's environment variables, which the
// manifests set for the etcd Pods as well: there `warren etcd member list` needs no flag.
type etcdFlags struct{ cfg client.Config }

func (e *etcdFlags) add(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringSliceVar(&e.cfg.Endpoints, "endpoints", splitList(envOr("WARREN_ETCD_ENDPOINTS", "https://127.0.0.1:2379")),
		"URLs of the etcd servers")
	f.StringVar(&e.cfg.CAFile, "ca-file", os.Getenv("WARREN_ETCD_CA_FILE"), "PEM file of the authorities that sign the servers")
	f.StringVar(&e.cfg.CertFile, "cert-file", os.Getenv("WARREN_ETCD_CERT_FILE"), "PEM file of the client certificate")
	f.StringVar(&e.cfg.KeyFile, "key-file", os.Getenv("WARREN_ETCD_KEY_FILE"), "PEM file of its key")
}

// do runs f with a client that is closed after it, if any server answers.
func (e *etcdFlags) do(c *cobra.Command, f func(*admin.Client) error) error {
	cli, err := client.Dial(e.cfg)
	if err != nil {
		return err
	}
	defer cli.Close()
	if err := admin.Answers(c.Context(), cli); err != nil {
		return err
	}
	return f(cli)
}

func etcdMemberCmd() *cobra.Command {
	var e etcdFlags
	c := &cobra.Command{Use: "member", Short: "list and remove the members of an etcd cluster"}
	e.add(c)
	c.AddCommand(etcdMemberListCmd(&e), etcdMemberRemoveCmd(&e))
	return c
}

func etcdMemberListCmd(e *etcdFlags) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "list",
		Short: "list the members",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.do(c, func(cli *admin.Client) error {
				members, err := admin.Members(c.Context(), cli)
				if err != nil {
					return err
				}
				return render(c.OutOrStdout(), format, members, func(w io.Writer) {
					fmt.Fprintln(w, "NAME\tID\tPEER\tCLIENTS\tROLE")
					for _, m := range members {
						role := "member"
						if m.Learner {
							role = "learner"
						}
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.ID, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","),
							role)
					}
				})
			})
		},
	}
	outputFlag(c, &format)
	return c
}

func etcdMemberRemoveCmd(e *etcdFlags) *cobra.Command {
	var api apiFlags
	var kubernetes bool
	c := &cobra.Command{
		Use:   "remove NAME|ID",
		Short: "remove a member that does not return",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.do(c, func(cli *admin.Client) error {
				members, err := admin.Members(c.Context(), cli)
				if err != nil {
					return err
				}
				m, err := admin.Find(members, args[0])
				if err != nil {
					return err
				}
				if err := admin.Remove(c.Context(), cli, m); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "removed %s (%s)\n", m.Name, m.ID)
				if !kubernetes || m.Name == "" {
					return nil
				}
				conn, err := api.connect("warren-etcd")
				if err != nil {
					return err
				}
				return registry.Registry{Client: conn.Client, Namespace: api.namespace}.Forget(c.Context(), m.Name)
			})
		},
	}
	c.Flags().BoolVar(&kubernetes, "kubernetes", os.Getenv("WARREN_KUBERNETES_ENABLED") == "true",
		"also remove it from ConfigMap warren-etcd")
	api.add(c)
	return c
}

func etcdSnapshotCmd() *cobra.Command {
	var e etcdFlags
	c := &cobra.Command{Use: "snapshot", Short: "save and restore the data of an etcd cluster"}
	e.add(c)
	c.AddCommand(etcdSnapshotSaveCmd(&e), etcdSnapshotRestoreCmd())
	return c
}

func etcdSnapshotSaveCmd(e *etcdFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE|-",
		Short: "write all data of etcd to a file, or to stdout",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.do(c, func(cli *admin.Client) error {
				var n int64
				var err error
				if args[0] == "-" {
					n, err = admin.Save(c.Context(), cli, c.OutOrStdout())
				} else {
					n, err = admin.SaveFile(c.Context(), cli, args[0])
				}
				if err == nil {
					fmt.Fprintf(c.ErrOrStderr(), "saved %d bytes\n", n)
				}
				return err
			})
		},
	}
}

func etcdSnapshotRestoreCmd() *cobra.Command {
	var r admin.Restored
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "create the data directory of a new one-member cluster from a snapshot",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.File = args[0]
			if err := admin.Restore(r); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "restored into %s; start the member with --name %s --peer-urls %s\n", r.DataDir, r.Name, r.PeerURL)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&r.DataDir, "data-dir", "/var/lib/warren/etcd", "directory to make; it must not exist")
	f.StringVar(&r.Name, "name", "default", "name of the member")
	f.StringVar(&r.PeerURL, "peer-url", "http://127.0.0.1:2380", "URL on which it will serve other members")
	return c
}
