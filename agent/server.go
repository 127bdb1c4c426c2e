package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/flock"
	"github.com/warrennet/warren/internal/httpserve"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
	"golang.org/x/sys/unix"
)

// SocketName is the local API's socket in the run directory.
const SocketName = "agent.sock"

// listen takes over the socket's path: a lock in the same folder ensures that no other agent serves there.
func listen(dir string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	lock, err := flock.Try(filepath.Join(dir, "agent.lock"))
	if held := (*flock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("another agent runs in %s: %w", dir, err)
	} else if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, err
	}
	old := unix.Umask(0o177) // the socket is root's from its first moment
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &lockedListener{l, lock}, nil
}

// lockedListener keeps the lock as long as the socket is served.
type lockedListener struct {
	net.Listener
	lock *flock.Lock
}

func (l *lockedListener) Close() error { return errors.Join(l.Listener.Close(), l.lock.Close()) }

// serve answers the local API until ctx ends; every handler has returned then.
func (a *Agent) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	for pattern, h := range a.routes() {
		mux.HandleFunc(pattern, h)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	a.plug.Attach(srv, mux)
	return httpserve.Run(ctx, srv, l)
}

// routes are the handlers of the local API, without those of the CNI plugin. Each works at any time of the agent's life.
func (a *Agent) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET " + api.StatusPath:     func(w http.ResponseWriter, _ *http.Request) { reply(w, a.status()) },
		"GET " + api.ReadyPath:      a.serveReady,
		"GET " + api.PodsPath:       func(w http.ResponseWriter, _ *http.Request) { reply(w, a.pods.List()) },
		"POST " + api.PodLabelsPath: a.labelPod,
		"POST " + api.PodProbePath:  a.probePod,
		"GET " + api.EnvPath:        a.serveEnv,
		"GET " + api.DNSPath:        a.serveDNSQuery,
		"POST " + api.DNSLogPath:    a.switchDNSLog,
		"GET " + api.FlowsPath:      a.serveFlows,
		"GET " + api.ServicesPath:   a.serveServices,
		"GET " + api.EndpointsPath:  a.serveEndpoints,
		"GET " + api.LBPath:         a.serveLB,
		"GET " + api.PeersPath:      func(w http.ResponseWriter, _ *http.Request) { reply(w, a.external.List()) },
		"POST " + api.PeersPath:     a.addPeer,
		"DELETE " + api.PeersPath:   a.removePeer,
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client went away; there is nobody to tell
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Error{Message: err.Error()})
}

func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	if why := a.notReady(); why != "" {
		refuse(w, http.StatusServiceUnavailable, errors.New(why))
		return
	}
	reply(w, struct{}{})
}

// notReady says what is missing before a Pod can be plugged, "" when nothing is.
func (a *Agent) notReady() string {
	if a.member.Blocks() == nil {
		if why := a.member.JoinProblem(); why != "" {
			return "no Pod CIDR yet: " + why
		}
		return "no Pod CIDR yet: waiting for the store"
	}
	s := a.loop.State()
	if s == nil {
		return "the tunnel is coming up"
	}
	if !s.Ready {
		return "the first plan could not be applied: " + s.Err.Error()
	}
	return ""
}

func (a *Agent) status() api.Status {
	st := api.Status{Node: a.cfg.NodeName, Version: version.Version, Cluster: a.member.Cluster().Name, Store: a.source.Store().State(),
		PodRanges: a.member.Cluster().PodCIDRs, DNS: a.names.Addresses(), PublicKey: publicKey(a.key).String(), Port: a.port(), Interface: a.cfg.Interface,
		Offload: a.offload.get()}
	if why := a.notReady(); why != "" {
		st.Problems = append(st.Problems, why)
	} else {
		st.Ready = true
	}
	if why := a.member.JoinProblem(); why != "" && st.Ready {
		st.Problems = append(st.Problems, why)
	}
	if why := a.member.RoomProblem(); why != "" {
		st.Problems = append(st.Problems, "the Pod CIDRs are nearly full: "+why)
	}
	if !st.Store.Connected && st.Store.Error != "" {
		st.Problems = append(st.Problems, "etcd is unreachable: "+st.Store.Error)
	}
	if a.kube != nil {
		k := a.source.API().State()
		if st.Kubernetes = &k; !k.Connected && k.Error != "" {
			st.Problems = append(st.Problems, "the API server is unreachable: "+k.Error)
		}
	}
	if a.proxyAPI != nil {
		st.Problems = append(st.Problems, a.proxyAPI.Problems()...)
	}
	st.PodCIDRs = a.member.Blocks()
	st.Pods = len(a.plug.Pods())
	snap := a.source.Load()
	if snap != nil {
		st.Revision, st.ServiceCIDRs, st.Unclaimed = snap.Revision, snap.ServiceCIDRs, a.member.Unclaimed(snap)
	}
	if s := a.loop.State(); s != nil {
		st.Applied, st.MTU, st.Addresses = s.Revision, s.Plan.MTU, s.Plan.Node.Addresses
		st.Problems = append(st.Problems, s.Plan.Problems...)
		if s.Err != nil {
			st.Problems = append(st.Problems, "not applied: "+s.Err.Error())
		}
		st.Peers = a.peerStatus(snap, s.Plan)
		a.path.use(func(_ *servicelb.Balancer, tun *tunnel.Tunnel) { st.Tunnel = tun.Stats() })
		st.Problems = append(st.Problems, peerProblems(st.Peers)...)
		st.Problems = append(st.Problems, a.announceProblems()...)
	}
	return st
}
