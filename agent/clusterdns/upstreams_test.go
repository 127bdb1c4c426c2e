package clusterdns

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
)

func newTestServer(c Config) *Server {
	c.Log = slog.New(slog.DiscardHandler)
	c.Cluster = func() model.Cluster {
		return model.Cluster{Domain: "cluster.local", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}
	}
	c.Blocks = func() []netip.Prefix { return nil }
	if c.Addresses == nil {
		c.Addresses = []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")}
	}
	return New(c)
}

func TestMerge_ClusterNamesServers_PrecedeNodeSettingsByZone(t *testing.T) {
	s := newTestServer(Config{DNS: dns.Config{Upstreams: []string{"192.0.2.1"},
		StubDomains: map[string][]string{"a.example": {"192.0.2.2"}, "b.example": {"192.0.2.3"}}}})
	def, stubs := s.merge(model.Nameservers{StubDomains: map[string][]string{"b.example": {"10.42.1.7"}}})
	if !reflect.DeepEqual(def, []string{"192.0.2.1"}) ||
		!reflect.DeepEqual(stubs, map[string][]string{"a.example": {"192.0.2.2"}, "b.example": {"10.42.1.7"}}) {
		t.Errorf("%v %v", def, stubs)
	}
	def, stubs = s.merge(model.Nameservers{Upstreams: []string{"192.0.2.9"}})
	if def[0] != "192.0.2.9" || len(stubs) != 2 || stubs["b.example"][0] != "192.0.2.3" {
		t.Errorf("%v %v", def, stubs)
	}
	if def, _ = s.merge(model.Nameservers{}); def[0] != "192.0.2.1" {
		t.Errorf("%v", def)
	}
}

// The upstreams of a running server follow the API server's; before its first answer, those of the last run.
func TestServer_SetUpstreams_FollowsClusterAndSavesFreshOnes(t *testing.T) {
	var saved []model.Nameservers
	s := newTestServer(Config{Kubernetes: true, DNS: dns.Config{Upstreams: []string{"192.0.2.1"}},
		SaveNameservers: func(n model.Nameservers) error { saved = append(saved, n); return nil }})
	srv, err := dns.New(s.config(s.Addresses()))
	if err != nil {
		t.Fatal(err)
	}
	s.current.Store(srv)
	see := func(named model.Nameservers, fresh bool, want ...string) {
		t.Helper()
		s.SetUpstreams(named, fresh)
		var got []string
		for _, u := range srv.Upstreams() {
			got = append(got, u.Zone+" "+u.Name)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	last := model.Nameservers{Upstreams: []string{"192.0.2.50"}}
	see(last, false, ". 192.0.2.50")
	if len(saved) != 0 {
		t.Error("the upstreams of the last run were saved again")
	}
	now := model.Nameservers{StubDomains: map[string][]string{"corp.example": {"10.42.1.7:5353"}}}
	see(now, true, ". 192.0.2.1", "corp.example. 10.42.1.7:5353")
	if len(saved) != 1 || !reflect.DeepEqual(saved[0], now) {
		t.Errorf("saved %+v, want %+v", saved, now)
	}
	see(model.Nameservers{Upstreams: []string{"10.43.0.10"}}, true, ". 192.0.2.1", "corp.example. 10.42.1.7:5353") // this server itself
	see(model.Nameservers{}, true, ". 192.0.2.1")
}
