package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/etcd/server"
)

func etcdCmd() *cobra.Command {
	var cfg server.Config
	c := &cobra.Command{
		Use:   "etcd",
		Short: "run a member of warren's own etcd",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			return server.Run(c.Context(), cfg, func() { log.Info("etcd serves", "member", cfg.Name, "clients", cfg.ClientURLs) })
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Name, "name", "default", "name of this member")
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/warren/etcd", "directory of the member's data")
	f.StringSliceVar(&cfg.ClientURLs, "client-urls", []string{"http://127.0.0.1:2379"}, "URLs to serve clients on")
	f.StringSliceVar(&cfg.PeerURLs, "peer-urls", []string{"http://127.0.0.1:2380"}, "URLs to serve other members on")
	f.StringVar(&cfg.InitialCluster, "initial-cluster", "", "members of a new cluster: name=peerURL,... (default: this one alone)")
	f.BoolVar(&cfg.Existing, "join", false, "join a running cluster (the member was added there before)")
	f.StringVar(&cfg.CAFile, "ca-file", "", "PEM file of the authorities that sign clients and members; without it there is no TLS")
	f.StringVar(&cfg.CertFile, "cert-file", "", "PEM file of this member's certificate")
	f.StringVar(&cfg.KeyFile, "key-file", "", "PEM file of its key")
	f.StringVar(&cfg.LogLevel, "log-level", "warn", "etcd's own log: debug, info, warn, error")
	return c
}
