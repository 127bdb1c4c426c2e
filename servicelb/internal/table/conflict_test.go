package table

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
)

func claimSelf() Self {
	return Self{Node: "n1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		NodePortAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Ownership: ownership.Rules{ExternalIPs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
			NodeAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			NodeUses:  map[ownership.Port]string{{Proto: model.UDP, Port: 51820}: "warren's tunnel"}}}
}

// Several objects claim one address and port: the class decides, then the age, and never the name.
func TestBuild_SameAddressAndPort_ClassThenAge(t *testing.T) {
	addr := netip.MustParseAddr("198.51.100.1")
	service := func(name string, age int64, lb, external bool) model.Service {
		s := model.Service{ObjectName: model.ObjectName{Namespace: name, Name: "s"}, Created: time.Unix(age, 0), UID: "uid-" + name,
			Type: model.LoadBalancer, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
		if lb {
			s.LBAddresses = []netip.Addr{addr}
		}
		if external {
			s.ExternalIPs = []netip.Addr{addr}
		}
		return s
	}
	var builder Builder
	for _, c := range []struct {
		name     string
		services []model.Service
		want     string
		refused  int
	}{
		{"external IP alone", []model.Service{service("d", 2, false, true)}, "d/s", 0},
		{"an older one appears", []model.Service{service("a", 3, false, true), service("d", 2, false, true)}, "d/s", 1},
		{"a load balancer address precedes", []model.Service{service("d", 2, false, true), service("z", 9, true, false)}, "z/s", 1},
		{"two load balancer addresses", []model.Service{service("a", 10, true, false), service("z", 9, true, false)}, "z/s", 1},
		{"the owner deleted", []model.Service{service("a", 10, true, false)}, "a/s", 0},
		{"all deleted", nil, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := builder.Build(claimSelf(), &model.Snapshot{Services: c.services})
			f, got := table.Frontend(Key{Addr: addr, Port: 80, Proto: uint8(model.TCP)}), ""
			if f != nil {
				got = f.Service.String()
			}
			if got != c.want {
				t.Errorf("frontend of %q, expected %q", got, c.want)
			}
			if n := len(table.Refusals()); n != c.refused {
				t.Errorf("%d refusals, expected %d: %v", n, c.refused, table.Refusals())
			}
		})
	}
}

// Another port of a load balancer address belongs to the Service that has the address, too.
func TestBuild_ExternalIPAtLoadBalancerAddress_RefusedAtEveryPort(t *testing.T) {
	addr := netip.MustParseAddr("198.51.100.1")
	victim := model.Service{ObjectName: model.ObjectName{Namespace: "z", Name: "s"}, UID: "1", Type: model.LoadBalancer,
		LBAddresses: []netip.Addr{addr}, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}}}
	other := model.Service{ObjectName: model.ObjectName{Namespace: "a", Name: "s"}, UID: "0", ExternalIPs: []netip.Addr{addr},
		Ports: []model.ServicePort{{Protocol: model.TCP, Port: 81}}}
	var builder Builder
	key := Key{Addr: addr, Port: 81, Proto: uint8(model.TCP)}
	if x := builder.Build(claimSelf(), &model.Snapshot{Services: []model.Service{other}}); x.Frontend(key) == nil || x.HasService(addr) ||
		len(x.Redirects().ExternalPorts) != 1 {
		t.Errorf("alone: frontend %v, the whole address %t, redirects %+v", x.Frontend(key), x.HasService(addr), x.Redirects())
	}
	if x := builder.Build(claimSelf(), &model.Snapshot{Services: []model.Service{other, victim}}); x.Frontend(key) != nil ||
		len(x.Redirects().ExternalPorts) != 0 || len(x.Refusals()) != 1 {
		t.Errorf("with the owner: frontend %v, redirects %+v, refusals %v", x.Frontend(key), x.Redirects(), x.Refusals())
	}
	if x := builder.Build(claimSelf(), &model.Snapshot{Services: []model.Service{other}}); x.Frontend(key) == nil ||
		len(x.Refusals()) != 0 {
		t.Errorf("the owner deleted: frontend %v, refusals %v", x.Frontend(key), x.Refusals())
	}
}

func TestBuild_HostPorts_OwnPortsAndOtherAddressesRefused(t *testing.T) {
	pod := func(name string, h model.HostPort) model.Pod {
		h.ContainerPort = 5555
		return model.Pod{ObjectName: model.ObjectName{Namespace: "d", Name: name}, Node: "n1",
			Addrs: []netip.Addr{netip.MustParseAddr("10.42.0.7")}, HostPorts: []model.HostPort{h}}
	}
	x := Build(claimSelf(), &model.Snapshot{Pods: []model.Pod{
		pod("good", model.HostPort{Protocol: model.TCP, HostPort: 80}),
		pod("other-address", model.HostPort{Protocol: model.TCP, HostPort: 81, HostIP: netip.MustParseAddr("10.42.1.9")}),
		pod("tunnel", model.HostPort{Protocol: model.UDP, HostPort: 51820})}})
	if x.Len() != 1 {
		t.Errorf("%d frontends, expected the one of Pod d/good: %v", x.Len(), x.Frontends())
	}
	if len(x.Refusals()) != 2 {
		t.Errorf("refusals %+v, expected two", x.Refusals())
	}
}

// randomClaims makes Services and Pods whose claims often collide.
func randomClaims(r *rand.Rand) *model.Snapshot {
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(3))}) }
	snap := &model.Snapshot{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if r.IntN(3) == 0 {
			continue
		}
		s := model.Service{ObjectName: model.ObjectName{Namespace: name, Name: "s"}, UID: fmt.Sprint(r.IntN(1000)),
			Created: time.Unix(int64(r.IntN(3)), 0), Type: model.ServiceType(r.IntN(3))}
		for p := range 1 + r.IntN(2) {
			s.Ports = append(s.Ports, model.ServicePort{Name: fmt.Sprint(p), Protocol: model.TCP, Port: uint16(80 + r.IntN(3)),
				NodePort: uint16(r.IntN(2) * (30000 + r.IntN(2)))})
		}
		for _, list := range []*[]netip.Addr{&s.ClusterIPs, &s.LBAddresses, &s.ExternalIPs} {
			if r.IntN(3) == 0 {
				*list = []netip.Addr{addr()}
			}
		}
		snap.Services = append(snap.Services, s)
	}
	for _, name := range []string{"p", "q"} {
		snap.Pods = append(snap.Pods, model.Pod{ObjectName: model.ObjectName{Namespace: "a", Name: name}, Node: "n1", UID: name,
			Addrs:     []netip.Addr{netip.MustParseAddr("10.42.0.7")},
			HostPorts: []model.HostPort{{Protocol: model.TCP, HostPort: uint16(30000 + r.IntN(3)), ContainerPort: 1}}})
	}
	return snap
}

// ownersOf decides each key on its own, from all claims of the snapshot.
func ownersOf(snap *model.Snapshot) map[Key]string {
	type claim struct {
		ownership.Claim
		key Key
	}
	var all []claim
	whole := map[netip.Addr]ownership.Class{}
	add := func(c ownership.Claim, a netip.Addr, port uint16) {
		all = append(all, claim{c, Key{a, port, uint8(model.TCP)}})
		if have, ok := whole[a]; c.Class.Whole() && (!ok || c.Class < have) {
			whole[a] = c.Class
		}
	}
	node := netip.MustParseAddr("192.0.2.1")
	for i := range snap.Services {
		s := &snap.Services[i]
		c := ownership.Claim{Owner: s.ObjectName, Created: s.Created, UID: s.UID}
		for _, p := range s.Ports {
			for class, list := range map[ownership.Class][]netip.Addr{ownership.ClusterIP: s.ClusterIPs,
				ownership.LoadBalancer: s.LBAddresses, ownership.ExternalIP: s.ExternalIPs} {
				if class == ownership.LoadBalancer && s.Type != model.LoadBalancer {
					continue
				}
				for _, a := range list {
					c.Class = class
					add(c, a, p.Port)
				}
			}
			if c.Class = ownership.NodePort; p.NodePort != 0 && s.Type != model.ClusterIP {
				add(c, node, p.NodePort)
			}
		}
	}
	for i := range snap.Pods {
		p := &snap.Pods[i]
		add(ownership.Claim{Class: ownership.HostPort, Owner: p.ObjectName, UID: p.UID}, node, p.HostPorts[0].HostPort)
	}
	out := map[Key]string{}
	best := map[Key]ownership.Claim{}
	for _, c := range all {
		if w, ok := whole[c.key.Addr]; ok && c.Class > w {
			continue
		}
		if have, ok := best[c.key]; !ok || c.Compare(&have) < 0 {
			best[c.key], out[c.key] = c.Claim, c.Owner.String()
		}
	}
	return out
}

// After any sequence of snapshots the incremental table has the owners that the oracle finds in the last snapshot alone.
func TestBuilder_RandomClaims_OwnersEqualOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	var builder Builder
	for round := range 3000 {
		snap := randomClaims(r)
		x := builder.Build(claimSelf(), snap)
		want, got := ownersOf(snap), map[Key]string{}
		var external []ExternalPort
		for k, f := range x.All {
			got[k] = f.Service.String()
			if f.Claim.Class == ownership.ExternalIP {
				external = append(external, ExternalPort{k.Addr, Port{k.Proto, k.Port}})
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("round %d: owners %v, expected %v", round, got, want)
		}
		if have := x.Redirects().ExternalPorts; len(have) != len(external) || slices.ContainsFunc(external, func(e ExternalPort) bool {
			return !slices.Contains(have, e)
		}) {
			t.Fatalf("round %d: redirected %v, expected %v", round, have, external)
		}
		if fresh := Build(claimSelf(), snap).Refusals(); fmt.Sprint(fresh) != fmt.Sprint(x.Refusals()) {
			t.Fatalf("round %d: refusals %v, expected %v", round, x.Refusals(), fresh)
		}
		for _, f := range x.Refusals() {
			if f.Reason == "" || strings.TrimSpace(f.At()) == "" {
				t.Fatalf("round %d: refusal %+v without address or reason", round, f)
			}
		}
	}
}
