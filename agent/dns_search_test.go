package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// What a kubelet writes into the resolv.conf of each dnsPolicy, and what may be completed of it.
func TestSearchOf(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")}
	domains := []string{"jobs.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}
	for what, c := range map[string]struct {
		d     api.DNS
		ok    bool
		ndots int
	}{
		"ClusterFirst":                {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:5"}}, true, 5},
		"with an option of its own":   {api.DNS{Servers: []string{"10.43.0.10", "fd43::a"}, Searches: domains, Options: []string{"edns0", "ndots:2"}}, true, 2},
		"without options":             {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains}, true, 1},
		"Default":                     {api.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}}, false, 1},
		"None, with another server":   {api.DNS{Servers: []string{"10.43.0.10", "192.0.2.53"}, Searches: domains, Options: []string{"ndots:5"}}, false, 1},
		"nothing recorded":            {api.DNS{}, false, 1},
		"ndots that nobody can read":  {api.DNS{Servers: []string{"10.43.0.10"}, Searches: domains, Options: []string{"ndots:many"}}, false, 1},
		"a server that is no address": {api.DNS{Servers: []string{"dns"}, Searches: domains}, false, 1},
	} {
		got, ok := searchOf(ipam.Record{PodNamespace: "jobs"}, c.d, servers)
		if ok != c.ok || ok && (got.Namespace != "jobs" || got.NDots != c.ndots || !slices.Equal(got.Domains, domains)) {
			t.Errorf("%s: %+v, %v", what, got, ok)
		}
	}
}

// Without a kubelet the plugin's own result is the Pod's resolver; with one, only what the runtime passed is.
func TestUnrecordedResolver(t *testing.T) {
	a := &Agent{cfg: config.Default()}
	r := ipam.Record{PodNamespace: "jobs"}
	if d := a.resolver(r); len(d.Searches) != 3 || d.Searches[0] != "jobs.svc.cluster.local" {
		t.Errorf("without Kubernetes: %+v", d)
	}
	r.DNS.Servers = []string{"192.0.2.53"}
	if d := a.resolver(r); len(d.Searches) != 0 || d.Servers[0] != "192.0.2.53" {
		t.Errorf("recorded: %+v", d)
	}
	a.kube = &kubernetes{}
	if d := a.resolver(ipam.Record{PodNamespace: "jobs"}); len(d.Servers) != 0 {
		t.Errorf("with Kubernetes and nothing recorded: %+v", d)
	}
}
