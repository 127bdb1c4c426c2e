package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/etcd/member"
	"github.com/warrennet/warren/internal/store/etcd/registry"
	"github.com/warrennet/warren/internal/store/etcd/server"
	"github.com/warrennet/warren/internal/systemd"
)

func etcdCmd() *cobra.Command {
	var cfg server.Config
	var kubernetes bool
	var m memberFlags
	c := &cobra.Command{
		Use:   "etcd",
		Short: "run a member of warren's own etcd",
		Long: "Run a member of warren's own etcd.\n\nWith --kubernetes the member finds the other members, its name, addresses and " +
			"certificates by itself; " +
			"of the flags about those only --data-dir and --log-level are used then.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			if kubernetes {
				return m.run(c, cfg, log)
			}
			return serveEtcd(c.Context(), cfg, log)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Name, "name", "default", "name of this member")
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/warren/etcd", "directory of the member's data")
	f.StringSliceVar(&cfg.ClientURLs, "client-urls", []string{"https://127.0.0.1:2379"}, "URLs to serve clients on")
	f.StringSliceVar(&cfg.PeerURLs, "peer-urls", []string{"https://127.0.0.1:2380"}, "URLs to serve other members on")
	f.StringVar(&cfg.InitialCluster, "initial-cluster", "", "members of a new cluster: name=peerURL,... (default: this one alone)")
	f.BoolVar(&cfg.Existing, "join", false, "join a running cluster (the member was added there before)")
	f.StringVar(&cfg.CAFile, "ca-file", "", "PEM file of the authorities that sign clients and members")
	f.StringVar(&cfg.CertFile, "cert-file", "", "PEM file of this member's certificate")
	f.StringVar(&cfg.KeyFile, "key-file", "", "PEM file of its key")
	f.BoolVar(&cfg.Insecure, "insecure", false,
		"serve http:// URLs without TLS: every process that reaches them reads and writes everything")
	f.StringSliceVar(&cfg.PeerNames, "peer-name", nil,
		"common names that members' certificates may have (default: that of this member's certificate)")
	f.StringVar(&cfg.LogLevel, "log-level", "warn", "etcd's own log: debug, info, warn, error")
	f.BoolVar(&kubernetes, "kubernetes", false, "run a member of the etcd that control-plane nodes run for warren")
	m.add(c)
	c.AddCommand(etcdMemberCmd(), etcdSnapshotCmd())
	return c
}

// serveEtcd runs a member. It notifies the service manager when clients are served and when it begins to stop.
func serveEtcd(ctx context.Context, cfg server.Config, log *slog.Logger) error {
	notified := make(chan struct{})
	undo := context.AfterFunc(ctx, func() {
		systemd.Notify(systemd.Stopping)
		close(notified)
	})
	err := server.Run(ctx, cfg, func() {
		log.Info("etcd member serves clients", "member", cfg.Name, "clients", cfg.ClientURLs)
		systemd.Notify(systemd.Ready)
	})
	if !undo() {
		<-notified
	}
	return err
}

// memberFlags are the flags of a member on Kubernetes.
type memberFlags struct {
	api            apiFlags
	caDir, certDir string
	ports          [3]int
}

func (m *memberFlags) add(c *cobra.Command) {
	m.api.add(c)
	f := c.Flags()
	f.StringVar(&m.caDir, "ca-dir", "/etc/warren/etcd-ca", "directory with ca.crt and ca.key")
	f.StringVar(&m.certDir, "cert-dir", "/run/warren-etcd", "directory for this member's certificate")
	f.IntVar(&m.ports[0], "client-port", member.ClientPort, "port for clients")
	f.IntVar(&m.ports[1], "peer-port", member.PeerPort, "port for other members")
	f.IntVar(&m.ports[2], "health-port", member.HealthPort, "port on 127.0.0.1 for /metrics, /livez and /readyz; 0 for none")
}

func (m *memberFlags) run(c *cobra.Command, cfg server.Config, log *slog.Logger) error {
	conn, err := m.api.connect("warren-etcd")
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(m.api.hostIP)
	if err != nil {
		return fmt.Errorf("--host-ip: %w", err)
	}
	return m.api.with(c.Context(), conn, func(ctx context.Context) error {
		return member.Run(ctx, member.Config{
			Name: m.api.node, HostIP: ip, DataDir: cfg.DataDir, CADir: m.caDir, CertDir: m.certDir,
			ClientPort: m.ports[0], PeerPort: m.ports[1], HealthPort: m.ports[2],
			Registry: registry.Registry{Client: conn.Client, Namespace: m.api.namespace},
			LogLevel: cfg.LogLevel, Log: log,
		})
	})
}
