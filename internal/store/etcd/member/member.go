// Package member runs one member of warren's own etcd on a node of a Kubernetes cluster. It founds the etcd cluster or joins
// it, and renews its certificate.
//
// It owns the data directory, the directory of its certificate, its ports and its entry in the ConfigMap of package
// registry. With data on disk it starts even if neither the API server nor another member answers. It never touches
// kubeadm's etcd, and never deletes data that has served.
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/warrennet/warren/internal/pki"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/registry"
	"github.com/warrennet/warren/internal/store/etcd/server"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// Ports of warren's own etcd. kubeadm's etcd uses 2379 and 2380.
const (
	ClientPort = 52379
	PeerPort   = 52380
	HealthPort = 52381 // on 127.0.0.1: /metrics, /livez, /readyz
)

// PeerName is the common name of members' certificates. Members accept peer connections with this name only.
const PeerName = pki.MemberName

// Config is one member.
type Config struct {
	Name       string // the node's
	HostIP     netip.Addr
	DataDir    string
	CADir      string // ca.crt and ca.key; the kubelet updates them when the Secret changes
	CertDir    string // for this member's certificate: ca.crt, tls.crt, tls.key
	ClientPort int
	PeerPort   int
	HealthPort int
	Registry   registry.Registry
	LogLevel   string // etcd's own
	Log        *slog.Logger
}

func (c Config) url(port int) string {
	return "https://" + net.JoinHostPort(c.HostIP.String(), strconv.Itoa(port))
}

func (c Config) entry() registry.Member {
	return registry.Member{PeerURL: c.url(c.PeerPort), ClientURL: c.url(c.ClientPort)}
}

func (c Config) etcdDir() string { return filepath.Join(c.DataDir, "data") }

func (c Config) validate() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("the node name is not set (WARREN_NODE_NAME)"))
	}
	if !c.HostIP.IsValid() {
		errs = append(errs, errors.New("the node address is not set (WARREN_KUBERNETES_HOST_IP)"))
	}
	if c.ClientPort == c.PeerPort {
		errs = append(errs, fmt.Errorf("clients and members cannot share port %d", c.PeerPort))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	if err := c.validate(); err != nil {
		return err
	}
	for _, a := range c.listens() {
		if err := checkPort(a); err != nil {
			return err
		}
	}
	cert := &certificate{c: c}
	if err := cert.make(); err != nil {
		return err
	}
	sc, err := c.prepare(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	serves := make(chan struct{})
	g.Go(func() error { return server.Run(ctx, sc, func() { close(serves) }) })
	g.Go(func() error {
		select {
		case <-serves:
			return c.settle(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return cert.keep(ctx) })
	return g.Wait()
}

func (c Config) listens() []string {
	out := []string{
		net.JoinHostPort(c.HostIP.String(), strconv.Itoa(c.PeerPort)),
		net.JoinHostPort(c.HostIP.String(), strconv.Itoa(c.ClientPort)),
		net.JoinHostPort("127.0.0.1", strconv.Itoa(c.ClientPort)),
	}
	if c.HealthPort != 0 {
		out = append(out, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.HealthPort)))
	}
	return out
}

// serverConfig is the configuration that all kinds of start share.
func (c Config) serverConfig() server.Config {
	clients := []string{c.url(c.ClientPort)}
	listen := clients
	if !c.HostIP.IsLoopback() {
		listen = append(listen, "https://127.0.0.1:"+strconv.Itoa(c.ClientPort))
	}
	health := ""
	if c.HealthPort != 0 {
		health = "http://127.0.0.1:" + strconv.Itoa(c.HealthPort)
	}
	return server.Config{Name: c.Name, MetricsURL: health, DataDir: c.etcdDir(),
		ClientURLs: listen, AdvertiseClientURLs: clients, PeerURLs: []string{c.url(c.PeerPort)},
		CAFile: c.certFile(pki.CAFile), CertFile: c.certFile("tls.crt"), KeyFile: c.certFile("tls.key"),
		PeerNames: []string{PeerName}, LogLevel: c.LogLevel}
}

func (c Config) dial(endpoints []string) (*clientv3.Client, error) {
	return client.Dial(client.Config{Endpoints: endpoints,
		CAFile: c.certFile(pki.CAFile), CertFile: c.certFile("tls.crt"), KeyFile: c.certFile("tls.key")})
}
