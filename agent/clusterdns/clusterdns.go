// Package clusterdns runs the node's DNS server for cluster names.
//
// It owns the dns.Server, which it replaces when the cluster DNS addresses change, and the goroutine that gives it new snapshots.
// The apply loop sets clients, search lists and upstreams; Run joins every goroutine. The package never resolves a name itself and
// never changes the host: the addresses are on warren0 by the plan, so that a query to them never leaves the node.
package clusterdns

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/ipam"
)

// Config is what a Server works with.
type Config struct {
	// DNS has the settings of the server; its Allow are networks that may query in addition to the node and its Pods. Domain, Listen,
	// Sockets and Log are filled in.
	DNS dns.Config
	// Addresses are the configured cluster DNS addresses of both families. SetAddresses replaces them.
	Addresses  []netip.Addr
	LogQueries bool
	// Autopath reports whether the search lists of a namespace's Pods are completed; nil: of none.
	Autopath func(namespace string) bool
	// Kubernetes: search lists come from the kubelet alone, and the cluster names upstreams in a ConfigMap.
	Kubernetes bool
	// Cluster and Blocks return the cluster's settings and this node's Pod CIDRs.
	Cluster func() model.Cluster
	Blocks  func() []netip.Prefix
	// Pods returns the records of this node's attached Pods.
	Pods func() []ipam.Record
	// SaveNameservers keeps the cluster's upstreams on disk for a start without the API server.
	SaveNameservers func(model.Nameservers) error
	Sockets         *listen.Sockets
	Log             *slog.Logger
}

// Server is the node's DNS server. New prepares it, Run serves.
type Server struct {
	cfg Config
	log *slog.Logger

	current    atomic.Pointer[dns.Server] // nil while nothing is served
	logQueries atomic.Bool
	addresses  atomic.Pointer[[]netip.Addr]
	moved      chan struct{}                  // the addresses may have changed
	snapshot   atomic.Pointer[model.Snapshot] // newest that SetSnapshot was given
	snapshots  chan *model.Snapshot           // newest that the server does not have yet
	upstreams  upstreams
}

// New starts nothing and listens nowhere.
func New(c Config) *Server {
	s := &Server{cfg: c, log: c.Log, moved: make(chan struct{}, 1), snapshots: make(chan *model.Snapshot, 1)}
	s.addresses.Store(&c.Addresses)
	s.logQueries.Store(c.LogQueries)
	return s
}

// Addresses returns the cluster DNS addresses of the families that Pods have.
func (s *Server) Addresses() []netip.Addr {
	return model.OfPodFamilies(s.cfg.Cluster(), *s.addresses.Load(), model.FamilyOf)
}

// SetAddresses replaces the cluster DNS addresses. The server moves to them without a restart of the agent.
func (s *Server) SetAddresses(addrs []netip.Addr) {
	s.addresses.Store(&addrs)
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// Current returns the running server, nil while there is none.
func (s *Server) Current() *dns.Server { return s.current.Load() }

// LogQueries switches the log line per query.
func (s *Server) LogQueries(on bool) {
	s.logQueries.Store(on)
	if d := s.current.Load(); d != nil {
		d.LogQueries(on)
	}
}

// part is what does not work on this node while the sockets are not open.
const part = "cluster DNS"

// Run serves until ctx ends. When the addresses change it restarts the server on the new ones. Sockets that cannot be opened, for
// instance because a dnsmasq listens on port 53 of all addresses, are a problem and are opened again later.
func (s *Server) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var feeder sync.WaitGroup
	feeder.Go(func() { s.feed(ctx) })
	defer feeder.Wait()
	defer cancel()
	s.cfg.Sockets.Run(ctx, part, func(ctx context.Context, up func()) error { return s.serveAddresses(ctx, s.Addresses(), up) })
}

// serveAddresses serves until ctx ends or the addresses are no longer addrs.
func (s *Server) serveAddresses(ctx context.Context, addrs []netip.Addr, up func()) error {
	ctx, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		defer stop()
		for slices.Equal(addrs, s.Addresses()) {
			select {
			case <-ctx.Done():
				return
			case <-s.moved:
			}
		}
	})
	defer watcher.Wait()
	defer stop()
	if len(addrs) == 0 {
		s.cfg.Sockets.Keep(dns.Role)
		up()
		<-ctx.Done()
		return nil
	}
	if err := dns.Hold(ctx, s.cfg.Sockets, listenOn(addrs)); err != nil { // before the zone data is built, which is expensive
		return err
	}
	d, err := dns.New(s.config(addrs)) // the apply loop adds the cluster's upstreams
	if err != nil {
		return err
	}
	d.LogQueries(s.logQueries.Load())
	d.SetSearches(s.searches())
	s.current.Store(d)
	defer s.current.Store(nil)
	s.catchUp(d)
	up()
	return d.Run(ctx)
}

// listenOn is the port of DNS on each address.
func listenOn(addrs []netip.Addr) (out []netip.AddrPort) {
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	return out
}

// config is the configuration of a server on these addresses.
func (s *Server) config(addrs []netip.Addr) dns.Config {
	c := s.cfg.DNS
	c.Domain, c.Log, c.Sockets, c.Listen = s.cfg.Cluster().Domain, s.log, s.cfg.Sockets, listenOn(addrs)
	var own []netip.Prefix // the node itself, which uses the server's address as its source
	for _, a := range addrs {
		own = append(own, netip.PrefixFrom(a, a.BitLen()))
	}
	c.Allow = slices.Concat(own, s.cfg.Blocks(), c.Allow)
	return c
}

// catchUp gives a new server the snapshot that the feeder has already taken. A newer one may arrive meanwhile.
func (s *Server) catchUp(d *dns.Server) {
	var has *model.Snapshot
	for {
		newest := s.snapshot.Load()
		if newest == has || newest == nil {
			return
		}
		d.Set(newest)
		has = newest
	}
}

// SetSnapshot passes a new snapshot to the server. nil and partial snapshots are ignored. One goroutine calls it, the apply loop.
func (s *Server) SetSnapshot(snap *model.Snapshot) {
	if snap == nil || snap.Partial || snap == s.snapshot.Load() {
		return
	}
	s.snapshot.Store(snap)
	select {
	case <-s.snapshots: // an older one that the feeder has not taken yet
	default:
	}
	s.snapshots <- snap // this goroutine is the only sender, so there is room
}

// feedShare caps CPU: after a snapshot the feeder sleeps feedShare times as long as the snapshot took.
const feedShare = 4

// feed updates the server's names in a goroutine of its own: in a large cluster that takes much longer than the change of one
// Service in the data plane, which must not wait for it.
func (s *Server) feed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case snap := <-s.snapshots:
			start := time.Now()
			if d := s.current.Load(); d != nil {
				d.Set(snap)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(feedShare * time.Since(start)):
			}
		}
	}
}

// SetClients sets the sources that may query; others are refused.
func (s *Server) SetClients(allow []netip.Prefix) {
	if d := s.current.Load(); d != nil {
		d.SetAllow(allow)
	}
}

// PodConfig returns the resolver configuration of a namespace's Pods, as Kubernetes writes it for dnsPolicy ClusterFirst. It is
// empty without cluster DNS addresses.
func (s *Server) PodConfig(namespace string) api.DNS {
	var out api.DNS
	for _, a := range s.Addresses() {
		out.Servers = append(out.Servers, a.String())
	}
	if len(out.Servers) == 0 {
		return out
	}
	domain := strings.TrimSuffix(s.cfg.Cluster().Domain, ".")
	if namespace != "" {
		out.Searches = append(out.Searches, namespace+".svc."+domain)
	}
	out.Searches = append(out.Searches, "svc."+domain, domain)
	out.Options = []string{"ndots:5"}
	return out
}
