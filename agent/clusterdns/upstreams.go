package clusterdns

import (
	"maps"
	"reflect"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
)

// upstreams is what SetUpstreams has set and saved. Only the apply loop's goroutine uses it.
type upstreams struct {
	server *dns.Server
	set    model.Nameservers
	saved  *model.Nameservers
}

// SetUpstreams sets the upstreams that the cluster names (ConfigMap kube-system/kube-dns). fresh means that they come from the API
// server and not from the disk; fresh ones are saved. Without Kubernetes it does nothing. One goroutine calls it, the apply loop.
func (s *Server) SetUpstreams(named model.Nameservers, fresh bool) {
	if !s.cfg.Kubernetes {
		return
	}
	u := &s.upstreams
	if fresh && (u.saved == nil || !reflect.DeepEqual(*u.saved, named)) {
		if err := s.cfg.SaveNameservers(named); err != nil {
			s.log.Warn("cannot save the cluster's upstreams", "err", err)
		}
		u.saved = &named
	}
	d := s.current.Load()
	if d == nil || u.server == d && reflect.DeepEqual(u.set, named) {
		return
	}
	if u.server == d || len(named.Upstreams)+len(named.StubDomains) > 0 {
		s.log.Info("using the upstreams that the cluster names", "upstreams", named.Upstreams, "zones", named.StubDomains)
	}
	u.server, u.set = d, named
	upstreams, stubs := s.merge(named)
	if err := d.SetUpstreams(upstreams, stubs); err != nil {
		s.log.Error("invalid upstreams in ConfigMap kube-system/kube-dns; keeping the previous ones", "err", err)
	}
}

// merge returns the upstreams and, by zone, the servers of stub domains. The cluster's take precedence over this node's settings,
// zone by zone.
func (s *Server) merge(named model.Nameservers) (upstreams []string, stubs map[string][]string) {
	stubs = map[string][]string{}
	maps.Copy(stubs, s.cfg.DNS.StubDomains)
	maps.Copy(stubs, named.StubDomains)
	if len(named.Upstreams) > 0 {
		return named.Upstreams, stubs
	}
	return s.cfg.DNS.Upstreams, stubs
}

// Upstreams are the names of the upstreams in use, none while the server is not running.
func (s *Server) Upstreams() (out []string) {
	if d := s.current.Load(); d != nil {
		for _, u := range d.Upstreams() {
			out = append(out, u.Name)
		}
	}
	return out
}
