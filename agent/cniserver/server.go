// Package cniserver serves the CNI plugin: the handlers under /v1/cni/ of the agent's local API.
//
// It owns the sessions: which connection of the plugin has an ADD or DEL in progress, and for which attachment. A
// reservation lives as long as the plugin's connection. When the connection ends before the commit (the plugin was
// killed), the host interface is deleted and the addresses are released at once. Reconcile compares the records with the
// interfaces that exist; the agent calls it at its start and periodically.
//
// The package never creates an interface: the plugin does. It starts no goroutine: it runs in those of the http.Server
// that it is attached to.
package cniserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// Links are the Pods' host interfaces in the kernel. *veth.Kernel implements it.
type Links interface {
	Exists(name string) (bool, error)
	Delete(name string) error // nil for an interface that does not exist
	List() ([]veth.Link, error)
}

var _ Links = (*veth.Kernel)(nil)

// Config holds the parameters of a Server. Pool, Links and MTU are required.
type Config struct {
	Pool     *ipam.Pool
	Links    Links
	MTU      func() int                     // of the tunnel, in bytes; Pods get it
	Table    int                            // routing table of the Pods' host routes
	Protocol int                            // routing protocol number that marks them as warren's
	DNS      func(namespace string) api.DNS // resolver configuration for Pods of a namespace
	Ready    func() string                  // "" when Pods can be attached, else the reason why not
	// HostPorts returns why the Pod of an ADD cannot have its host ports. Optional.
	HostPorts func([]api.PortMapping) error
	// More adds a block after the pool was full, or returns why it cannot. It may block until ctx ends. Optional.
	More    func(ctx context.Context) error
	Changed func()                   // called after the set of committed Pods changed; must not block
	Added   func(took time.Duration) // called after each ADD, with the time since its plugin connected
	// Grace is how long Ready may return a reason before STATUS fails. It is longer than a restart takes.
	Grace time.Duration
	Log   *slog.Logger
}

// Server handles the plugin's requests. It is ready for use after New and Attach.
type Server struct {
	Config
	now   func() time.Time
	conns sync.Map // net.Conn -> *session: finds a connection's session for the ConnState hook

	mu            sync.Mutex
	sessions      map[api.Attachment]*session // calls in progress
	notReadySince time.Time                   // zero while Ready returns ""
}

// DefaultGrace is longer than an agent's restart with a slow disk.
const DefaultGrace = 30 * time.Second

// New makes a Server without side effects.
func New(c Config) *Server {
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.Ready == nil {
		c.Ready = func() string { return "" }
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Added == nil {
		c.Added = func(time.Duration) {}
	}
	if c.HostPorts == nil {
		c.HostPorts = func([]api.PortMapping) error { return nil }
	}
	if c.DNS == nil {
		c.DNS = func(string) api.DNS { return api.DNS{} }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{Config: c, now: time.Now, sessions: map[api.Attachment]*session{}}
}

// Attach registers the handlers on mux and the connection hooks on srv. Hooks that srv has already are still called.
// Call it before srv serves.
func (s *Server) Attach(srv *http.Server, mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.CNIAddPath, s.handle(s.add))
	mux.HandleFunc("POST "+api.CNICommitPath, s.handle(s.commit))
	mux.HandleFunc("POST "+api.CNIDelPath, s.handle(s.del))
	mux.HandleFunc("POST "+api.CNICheckPath, s.handle(s.check))
	mux.HandleFunc("POST "+api.CNIGCPath, s.handle(s.gc))
	mux.HandleFunc("GET "+api.CNIStatusPath, s.handle(s.status))

	connCtx, state := srv.ConnContext, srv.ConnState
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connCtx != nil {
			ctx = connCtx(ctx, c)
		}
		return s.connected(ctx, c)
	}
	srv.ConnState = func(c net.Conn, st http.ConnState) {
		if state != nil {
			state(c, st)
		}
		if st == http.StateClosed || st == http.StateHijacked {
			s.disconnected(c)
		}
	}
}

// Pods returns the records of all attached Pods: those whose ADD was committed.
func (s *Server) Pods() []ipam.Record {
	var out []ipam.Record
	for _, r := range s.Pool.Records() {
		if r.Committed {
			out = append(out, r)
		}
	}
	return out
}
