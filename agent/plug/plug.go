// Package plug is the agent's side of the CNI plugin: the handlers under /v1/cni/ of the local API.
//
// It owns the Pods' records while an ADD is under way. A reservation lives as long as the plugin's connection: when
// the connection ends before the commit (the plugin was killed), the host interface is deleted and the addresses go
// back at once. Reconcile compares records with the interfaces that really exist; the agent calls it after a start
// and now and then. The package starts no goroutine: it works in those of the http.Server it is attached to.
package plug

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// Links is the kernel's view of the Pods' host interfaces. cni/veth implements it.
type Links interface {
	Exists(name string) (bool, error)
	Delete(name string) error // no error for one that is gone
	List() ([]Link, error)
}

// Link is a live host interface of a Pod and what it tells about itself.
type Link struct {
	Name       string
	Attachment api.Attachment // zero when the interface does not carry it
	Pod        string         // namespace/name, "" when unknown
	Addresses  []netip.Addr
}

// Config is what a Server works with.
type Config struct {
	Pool     *ipam.Pool
	Links    Links
	MTU      func() int                     // of the tunnel, in bytes; Pods get it
	Table    int                            // routing table of the Pods' host routes
	Protocol int                            // routing protocol number that marks them as warren's
	DNS      func(namespace string) api.DNS // for Pods of a namespace
	Ready    func() string                  // "" when Pods can be plugged, else why not
	// More makes room for another Pod after the pool was full, or says why it cannot; nil cannot. It may block until ctx ends.
	More    func(ctx context.Context) error
	Changed func()                   // called after the set of committed Pods changed; must not block
	Added   func(took time.Duration) // called after each ADD, with the time since its plugin connected
	// Grace is how long the agent may be unable to plug Pods before STATUS says so; longer than a restart takes.
	Grace time.Duration
	Log   *slog.Logger
}

// Server answers the plugin. It is ready for use after New and Attach.
type Server struct {
	Config
	now   func() time.Time
	conns sync.Map // net.Conn -> *session: finds a connection's session for the ConnState hook

	mu       sync.Mutex
	sessions map[api.Attachment]*session // ADDs under way
	away     time.Time                   // since when Ready has been giving a reason, zero while it gives none
}

// DefaultGrace is longer than an agent's restart with a slow disk.
const DefaultGrace = 30 * time.Second

// New makes a Server; it touches nothing.
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
	if c.DNS == nil {
		c.DNS = func(string) api.DNS { return api.DNS{} }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{Config: c, now: time.Now, sessions: map[api.Attachment]*session{}}
}

// Attach registers the handlers on mux and the connection hooks on srv, beside hooks that are there already. It must
// come before srv serves.
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

// Pods returns the records of all Pods whose interface stands.
func (s *Server) Pods() []ipam.Record {
	var out []ipam.Record
	for _, r := range s.Pool.Records() {
		if r.Committed {
			out = append(out, r)
		}
	}
	return out
}
