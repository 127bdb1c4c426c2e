// Package server runs the etcd server inside of warren as one member of a cluster. It owns the member's data directory and
// its listeners while Run runs.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/model"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Config is one member.
type Config struct {
	Name       string
	DataDir    string
	ClientURLs []string // listened on, and advertised where AdvertiseClientURLs is empty
	PeerURLs   []string // listened on and advertised
	// AdvertiseClientURLs are the URLs that members report to clients.
	AdvertiseClientURLs []string
	// InitialCluster is the first membership: "n1=https://192.0.2.1:2380,n2=...". Empty: this member alone.
	InitialCluster string
	Existing       bool // join a running cluster instead of starting one
	// CAFile, CertFile and KeyFile are for TLS with client certificates, on every URL of clients and members.
	CAFile   string
	CertFile string
	KeyFile  string
	// Insecure permits http:// URLs, where every process that reaches them reads and writes everything.
	Insecure bool
	// PeerNames are the common names that certificates of other members may have. Without any it is the one of this member's
	// certificate. Certificates of clients have other names, so that a client cannot speak as a member.
	PeerNames []string
	// MetricsURL serves /metrics, /livez and /readyz without TLS; empty serves them to clients only.
	MetricsURL string
	// Token distinguishes a new cluster from another one with the same members.
	Token    string
	LogLevel string // etcd's own log, to stderr: debug, info, warn, error
	// Election overrides etcd's election timeout (1 s); the heartbeat is a tenth of it.
	Election time.Duration
}

// Run serves until ctx ends. ready is called once clients can be answered.
func Run(ctx context.Context, c Config, ready func()) error {
	ec, err := c.embed()
	if err != nil {
		return err
	}
	a := newAccess()
	ec.GRPCAdditionalServerOptions = a.options()
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("start etcd member %s: %w", c.Name, err)
	}
	defer e.Close()
	defer follow(ctx, a, e)()
	select {
	case <-e.Server.ReadyNotify():
		ready()
	case <-e.Server.StopNotify():
		return fmt.Errorf("etcd member %s stopped while starting", c.Name)
	case err := <-e.Err():
		return fmt.Errorf("etcd member %s: %w", c.Name, err)
	case <-ctx.Done():
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-e.Server.StopNotify():
		return fmt.Errorf("etcd member %s stopped", c.Name)
	case err := <-e.Err():
		return fmt.Errorf("etcd member %s: %w", c.Name, err)
	}
}

// follow starts the goroutine that follows the revocations, and returns a function that joins it.
func follow(ctx context.Context, a *access, e *embed.Etcd) (join func()) {
	ctx, cancel := context.WithCancel(ctx)
	cli := v3client.New(e.Server)
	a.ignored = func(node string) {
		e.GetLogger().Error(fmt.Sprintf("the list of revoked nodes has %d nodes, the most that it may have: certificates of node %q "+
			"are not refused", model.MaxRevocations, node))
	}
	var all sync.WaitGroup
	all.Go(func() { a.follow(ctx, cli) })
	return func() {
		cancel()
		all.Wait()
		_ = cli.Close() // only reports the end of its own context
	}
}

func (c Config) embed() (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name, ec.Dir = c.Name, c.DataDir
	var errs []error
	parse := func(field string, in []string) (out []url.URL) {
		for _, s := range in {
			u, err := url.Parse(s)
			if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				errs = append(errs, fmt.Errorf("%s: %q is not an http:// or https:// URL", field, s))
				continue
			}
			out = append(out, *u)
		}
		return out
	}
	ec.ListenClientUrls = parse("client URLs", c.ClientURLs)
	if ec.AdvertiseClientUrls = ec.ListenClientUrls; len(c.AdvertiseClientURLs) > 0 {
		ec.AdvertiseClientUrls = parse("advertised client URLs", c.AdvertiseClientURLs)
	}
	ec.ListenPeerUrls = parse("peer URLs", c.PeerURLs)
	ec.AdvertisePeerUrls = ec.ListenPeerUrls
	if c.MetricsURL != "" {
		ec.ListenMetricsUrls = parse("metrics URL", []string{c.MetricsURL})
	}
	if err := errors.Join(append(errs, c.checkTLS()...)...); err != nil {
		return nil, err
	}
	ec.InitialCluster = c.InitialCluster
	if ec.InitialCluster == "" {
		ec.InitialCluster = ec.InitialClusterFromName(c.Name)
	}
	if ec.InitialClusterToken = c.Token; c.Token == "" {
		ec.InitialClusterToken = "warren"
	}
	if c.Existing {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	if c.CAFile != "" {
		ec.ClientTLSInfo.TrustedCAFile, ec.ClientTLSInfo.CertFile, ec.ClientTLSInfo.KeyFile = c.CAFile, c.CertFile, c.KeyFile
		ec.ClientTLSInfo.ClientCertAuth = true
		ec.PeerTLSInfo = ec.ClientTLSInfo
		names, err := c.peerNames()
		if err != nil {
			return nil, err
		}
		ec.PeerTLSInfo.AllowedCNs = names
		// A member with several addresses may call from one that its certificate does not name.
		ec.PeerTLSInfo.SkipClientSANVerify, ec.ClientTLSInfo.SkipClientSANVerify = true, true
	}
	if c.Election > 0 {
		ec.ElectionMs = uint(c.Election.Milliseconds())
		ec.TickMs = ec.ElectionMs / 10
	}
	// The JSON gateway makes its requests with the member's own certificate, so that no revocation would apply to them.
	ec.EnableGRPCGateway = false
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	ec.LogLevel = c.LogLevel
	ec.LogOutputs = []string{"stderr"}
	return ec, nil
}

// peerNames are the common names that members' certificates may have. An empty name is refused, because etcd would take it
// for "any".
func (c Config) peerNames() ([]string, error) {
	names := c.PeerNames
	if len(names) == 0 {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate of this member: %w", err)
		}
		names = []string{pair.Leaf.Subject.CommonName}
	}
	if slices.Contains(names, "") {
		return nil, fmt.Errorf("common names of members %q: expected no empty name; issue %s with a common name (warren pki server), "+
			"because members accept each other by it", names, c.CertFile)
	}
	return names, nil
}

// checkTLS refuses to serve without TLS unless the configuration requests it.
func (c Config) checkTLS() (errs []error) {
	if c.Insecure {
		return nil
	}
	for _, f := range []struct{ flag, value string }{{"--ca-file", c.CAFile}, {"--cert-file", c.CertFile}, {"--key-file", c.KeyFile}} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s: expected a PEM file; --insecure serves without TLS", f.flag))
		}
	}
	for _, f := range []struct {
		flag string
		urls []string
	}{{"--client-urls", c.ClientURLs}, {"--peer-urls", c.PeerURLs}} {
		for _, u := range f.urls {
			if !strings.HasPrefix(strings.ToLower(u), "https://") { // etcd would serve it without TLS, whatever certificates it has
				errs = append(errs, fmt.Errorf("%s: %q has no TLS: expected https://; --insecure permits it", f.flag, u))
			}
		}
	}
	return errs
}
