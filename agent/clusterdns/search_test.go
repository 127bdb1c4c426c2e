package clusterdns

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// The rows are what a kubelet writes into resolv.conf for each dnsPolicy.
func TestSearchOf_ResolverConfiguration_CompletesOnlyOwnServers(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")}
	domains := []string{"jobs.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}
	for _, c := range []struct {
		name  string
		d     api.DNS
		ok    bool
		ndots int
	}{
		{"ClusterFirst", api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:5"}}, true, 5},
		{"further options",
			api.DNS{Servers: []string{"10.43.0.10", "fd43::a"}, Searches: domains, Options: []string{"edns0", "ndots:2"}}, true, 2},
		{"no options", api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains}, true, 1},
		{"Default", api.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}}, false, 1},
		{"None with another server",
			api.DNS{Servers: []string{"10.43.0.10", "192.0.2.53"}, Searches: domains, Options: []string{"ndots:5"}}, false, 1},
		{"nothing recorded", api.DNS{}, false, 1},
		{"invalid ndots", api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:many"}}, false, 1},
		{"invalid server address", api.DNS{Servers: []string{"dns"}, Searches: domains}, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := searchOf(ipam.Record{PodNamespace: "jobs"}, c.d, servers)
			if ok != c.ok || ok && (got.Namespace != "jobs" || got.NDots != c.ndots || !slices.Equal(got.Domains, domains)) {
				t.Errorf("%+v, %v", got, ok)
			}
		})
	}
}

// Without a kubelet the plugin's own result is the Pod's resolver configuration; with one, only what the runtime passed is.
func TestResolver_NothingRecorded_PodConfigOnlyWithoutKubernetes(t *testing.T) {
	s := newTestServer(Config{})
	r := ipam.Record{PodNamespace: "jobs"}
	if d := s.resolver(r); len(d.Searches) != 3 || d.Searches[0] != "jobs.svc.cluster.local" {
		t.Errorf("without Kubernetes: %+v", d)
	}
	recorded := r
	recorded.DNS.Servers = []string{"192.0.2.53"}
	if d := s.resolver(recorded); len(d.Searches) != 0 || d.Servers[0] != "192.0.2.53" {
		t.Errorf("recorded: %+v", d)
	}
	if d := newTestServer(Config{Kubernetes: true}).resolver(r); len(d.Servers) != 0 {
		t.Errorf("with Kubernetes: %+v", d)
	}
}
