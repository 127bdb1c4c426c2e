package agent

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/kube"
)

// What the cluster says comes before the node's own settings, zone by zone, and goes with the ConfigMap.
func TestServersOfTheCluster(t *testing.T) {
	c := config.Default()
	c.DNSUpstreams, c.DNS.StubDomains = []string{"192.0.2.1"}, []string{"a.example=192.0.2.2", "b.example=192.0.2.3"}
	def, stubs := servers(&c, model.Nameservers{StubDomains: map[string][]string{"b.example": {"10.42.1.7"}}})
	if !reflect.DeepEqual(def, []string{"192.0.2.1"}) || !reflect.DeepEqual(stubs, map[string][]string{"a.example": {"192.0.2.2"}, "b.example": {"10.42.1.7"}}) {
		t.Errorf("%v %v", def, stubs)
	}
	if def, stubs = servers(&c, model.Nameservers{Upstreams: []string{"192.0.2.9"}}); def[0] != "192.0.2.9" || len(stubs) != 2 {
		t.Errorf("%v %v", def, stubs)
	}
	if def, _ = servers(&c, model.Nameservers{}); def[0] != "192.0.2.1" {
		t.Errorf("%v", def)
	}
}

// The upstreams of a running server follow the API server's; without it, those of the last run.
func TestSetUpstreams(t *testing.T) {
	dir := disk.Dir(t.TempDir())
	kept := model.Nameservers{Upstreams: []string{"192.0.2.50"}}
	a := &Agent{cfg: config.Default(), log: slog.New(slog.DiscardHandler), disk: dir, kube: &kubernetes{named: kept}}
	a.cfg.DNSUpstreams = []string{"192.0.2.1"}
	srv, err := dns.New(dnsServer(&a.cfg, []netip.Addr{netip.MustParseAddr("10.43.0.10")}, nil, "cluster.local", a.log))
	if err != nil {
		t.Fatal(err)
	}
	a.dns.Store(srv)
	see := func(want ...string) {
		t.Helper()
		a.setUpstreams()
		var got []string
		for _, u := range srv.Upstreams() {
			got = append(got, u.Zone+" "+u.Name)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	see(". 192.0.2.50")
	if n, _ := dir.Nameservers(); len(n.Upstreams) != 0 {
		t.Error("what was kept was written again, though nothing new is known")
	}
	a.kube.objects = &kube.Objects{Nameservers: nil} // there, and unreadable
	see(". 192.0.2.50")
	now := model.Nameservers{StubDomains: map[string][]string{"corp.example": {"10.42.1.7:5353"}}}
	a.kube.objects = &kube.Objects{Nameservers: &now}
	see(". 192.0.2.1", "corp.example. 10.42.1.7:5353")
	if n, err := dir.Nameservers(); err != nil || !reflect.DeepEqual(n, now) {
		t.Errorf("kept %+v %v, want %+v", n, err, now)
	}
	a.kube.objects = &kube.Objects{Nameservers: &model.Nameservers{Upstreams: []string{"10.43.0.10"}}} // this server itself
	see(". 192.0.2.1", "corp.example. 10.42.1.7:5353")
	a.kube.objects = &kube.Objects{Nameservers: &model.Nameservers{}}
	see(". 192.0.2.1")
}
