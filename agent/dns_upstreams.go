package agent

import (
	"maps"
	"reflect"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
)

// askedServers is what setUpstreams has told whom; only the apply loop uses it.
type askedServers struct {
	by   *dns.Server
	said model.Nameservers
	kept *model.Nameservers // on disk
}

// setUpstreams tells DNS which servers the cluster names for other names (ConfigMap kube-system/kube-dns), and keeps them
// for a start without the API server.
func (a *Agent) setUpstreams() {
	if a.kube == nil {
		return
	}
	said, fresh := a.kube.nameservers()
	if k := &a.asked; fresh && (k.kept == nil || !reflect.DeepEqual(*k.kept, said)) {
		if err := a.disk.SetNameservers(said); err != nil {
			a.log.Warn("cannot keep the cluster's name servers on disk", "err", err)
		}
		k.kept = &said
	}
	d := a.dns.Load()
	if d == nil || a.asked.by == d && reflect.DeepEqual(a.asked.said, said) {
		return
	}
	if a.asked.by == d || len(said.Upstreams)+len(said.StubDomains) > 0 {
		a.log.Info("name servers of the cluster", "upstreams", said.Upstreams, "stubDomains", said.StubDomains)
	}
	a.asked.by, a.asked.said = d, said
	def, stubs := servers(&a.cfg, said)
	if err := d.SetUpstreams(def, stubs); err != nil {
		a.log.Error("the name servers in ConfigMap kube-system/kube-dns cannot be used; going on with the former ones", "err", err)
	}
}

// servers are those to ask: what the cluster says comes before this node's settings, zone by zone.
func servers(c *config.Config, said model.Nameservers) (def []string, stubs map[string][]string) {
	stubs = c.DNSServer().StubDomains
	maps.Copy(stubs, said.StubDomains)
	if len(said.Upstreams) > 0 {
		return said.Upstreams, stubs
	}
	return c.DNSUpstreams, stubs
}

// nameservers are the cluster's: of the API server, or of the last run until it answers.
func (k *kubernetes) nameservers() (said model.Nameservers, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.objects == nil || k.objects.Nameservers == nil {
		return k.named, false
	}
	return *k.objects.Nameservers, true
}
