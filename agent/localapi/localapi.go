// Package localapi serves the agent's local API, a unix socket in the run directory, for the command line and the CNI plugin.
//
// It owns the socket, its lock and the goroutines of its connections, which Run joins. It reads the agent's state through View.
// The handlers under /v1/cni/ are those of package cniserver.
package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/warrennet/warren/agent/apply"
	"github.com/warrennet/warren/agent/clusterdns"
	"github.com/warrennet/warren/agent/datapath"
	"github.com/warrennet/warren/agent/extpeers"
	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/agent/nodekey"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/announce"
)

// View is what the API shows of the agent.
type View interface {
	// Node returns what the status has of the node itself: identity, settings, connections, Pod CIDRs and their problems.
	Node() api.Status
	// NotReady returns what a CNI ADD needs and is missing, "" if nothing is.
	NotReady() string
	// Snapshot returns the newest snapshot, nil before the first.
	Snapshot() *model.Snapshot
	// Applied returns the result of the last apply, nil before the first.
	Applied() *apply.State
	// Announcements returns false before the tunnel is up.
	Announcements() (announce.View, bool)
}

// Config is what a Server works with.
type Config struct {
	View     View
	DataPath *datapath.Guard
	Pods     *localpods.Pods
	DNS      *clusterdns.Server
	External *extpeers.Store
	Keys     *nodekey.Keys
	// Changed is called after the external peers changed; it must not block.
	Changed    func()
	ProcSysNet string // usually /proc/sys/net
}

// Server is the local API.
type Server struct {
	Config
}

// New opens nothing.
func New(c Config) *Server { return &Server{c} }

// Run serves on l, which it closes, until ctx ends and every handler has returned. attach adds the handlers and connection hooks of
// the CNI plugin.
func (s *Server) Run(ctx context.Context, l net.Listener, attach func(*http.Server, *http.ServeMux)) error {
	mux := http.NewServeMux()
	for pattern, h := range s.Routes() {
		mux.HandleFunc(pattern, h)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	attach(srv, mux)
	return httpserve.Run(ctx, srv, l)
}

// Routes returns the handlers of the local API, without those of the CNI plugin.
func (s *Server) Routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET " + api.StatusPath:     func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Status()) },
		"GET " + api.ReadyPath:      s.ready,
		"GET " + api.PodsPath:       func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Pods.List()) },
		"POST " + api.PodLabelsPath: func(w http.ResponseWriter, r *http.Request) { changePod(w, r, s.Pods.ChangeLabels) },
		"POST " + api.PodProbePath:  func(w http.ResponseWriter, r *http.Request) { changePod(w, r, s.Pods.ChangeProbe) },
		"GET " + api.EnvPath:        s.env,
		"GET " + api.DNSPath:        s.dnsQuery,
		"POST " + api.DNSLogPath:    s.dnsLog,
		"GET " + api.FlowsPath:      s.flows,
		"GET " + api.ServicesPath:   s.services,
		"GET " + api.EndpointsPath:  s.endpoints,
		"GET " + api.LBPath:         s.lb,
		"GET " + api.PeersPath:      func(w http.ResponseWriter, _ *http.Request) { reply(w, s.External.List()) },
		"POST " + api.PeersPath:     s.addPeer,
		"DELETE " + api.PeersPath:   s.removePeer,
		"GET " + api.KeyPath:        func(w http.ResponseWriter, _ *http.Request) { reply(w, s.key()) },
		"POST " + api.KeyPath:       s.rotateKey,
	}
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if reason := s.View.NotReady(); reason != "" {
		refuse(w, http.StatusServiceUnavailable, errors.New(reason))
		return
	}
	reply(w, struct{}{})
}

var errNoSnapshot = errors.New("no snapshot of the store yet")

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has disconnected
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Error{Message: err.Error()})
}

// maxRequest bounds the body of a request in bytes.
const maxRequest = 64 << 10

// read decodes the body of a request and refuses unknown fields.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	return nil
}
