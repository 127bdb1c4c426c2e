package plan

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// byPref puts rules in the order of the kernel: by preference, then in the order of insertion.
func byPref(rules []hostnet.Rule) []hostnet.Rule {
	sorted := slices.Clone(rules)
	slices.SortStableFunc(sorted, func(a, b hostnet.Rule) int { return cmp.Compare(a.Pref, b.Pref) })
	return sorted
}

// walk does what the kernel does with the ordered rules of one family for a packet between two Pods of the node; port 0 is
// that of a fragment. It returns whether the packet is redirected and how many rules were evaluated.
func walk(rules []hostnet.Rule, proto uint8, port uint16) (redirected bool, passed int) {
	at := 0
	for _, r := range rules {
		if r.Pref < at || r.Pref >= prefICMP {
			continue
		}
		passed++
		if r.Proto != 0 && (r.Proto != proto || r.Sport != (hostnet.Ports{}) && (port < r.Sport.Lo || port > r.Sport.Hi)) {
			continue
		}
		if r.Goto == 0 {
			return r.Table == tableTUN, passed
		}
		at = r.Goto
	}
	return false, passed
}

func targetsOf(set map[servicelb.Port]bool) []servicelb.Port {
	var out []servicelb.Port
	for p := range set {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b servicelb.Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// fragments reports whether a target's answers may be fragmented.
func fragments(p servicelb.Port) bool {
	return p.Proto == packet.ProtoUDP || p.Proto == packet.ProtoSCTP
}

// hostnet adds and removes rules one by one. At every step from one set of ports to another, the ports in both sets are
// redirected and the ports in neither are not. Fragments of UDP and SCTP are redirected while the protocol has a port. All ports
// of such a protocol may be redirected while its last one is removed.
func TestReplyRules_EveryStepOfAnUpdate_RedirectsCommonPorts(t *testing.T) {
	from := netip.MustParsePrefix("10.42.0.0/16")
	protos := []uint8{6, 17, 132}
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		set := map[servicelb.Port]bool{}
		var now []hostnet.Rule
		for range 6 {
			before := targetsOf(set)
			for range rng.IntN(30) {
				set[servicelb.Port{Proto: protos[rng.IntN(3)], Port: uint16(1 + rng.IntN(60))}] = true
			}
			for p := range set {
				if rng.IntN(4) == 0 {
					delete(set, p)
				}
			}
			after := targetsOf(set)
			want := append(replyRules(from, after), fragmentRules(from, []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}, after)...)
			check := func() {
				t.Helper()
				kernel := byPref(now)
				for _, proto := range protos {
					leaving := !slices.ContainsFunc(now, func(r hostnet.Rule) bool {
						return r.Pref == prefWholeDatagrams &&
							r.Proto == proto
					})
					ofProto := func(p servicelb.Port) bool { return p.Proto == proto }
					for port := uint16(1); port <= 61; port++ {
						p := servicelb.Port{Proto: proto, Port: port}
						was, is := slices.Contains(before, p), slices.Contains(after, p)
						got, _ := walk(kernel, proto, port)
						if more := got && !was && !is; was && is && !got || more && !(leaving && fragments(p)) {
							t.Fatalf("seed %d: %v: redirected %v, was a target: %v, is one: %v\n%v", seed, p, got, was, is, now)
						}
					}
					was, is := slices.ContainsFunc(before, ofProto), slices.ContainsFunc(after, ofProto)
					if got, _ := walk(kernel, proto, 0); got && proto == packet.ProtoTCP || proto != packet.ProtoTCP &&
						(was && is && !got || !was && !is && got) {
						t.Fatalf("seed %d: fragments of protocol %d: redirected %v; its ports before: %v, after: %v\n%v", seed, proto, got,
							was, is, now)
					}
				}
			}
			for _, r := range want {
				if !slices.Contains(now, r) {
					now = append(now, r)
					check()
				}
			}
			var old []hostnet.Rule
			for _, r := range now {
				if !slices.Contains(want, r) {
					old = append(old, r)
				}
			}
			slices.SortStableFunc(old, func(a, b hostnet.Rule) int { return cmp.Compare(a.Pref, b.Pref) })
			for _, r := range old {
				now = slices.Delete(now, slices.Index(now, r), slices.Index(now, r)+1)
				check()
			}
			for _, p := range after {
				got, _ := walk(byPref(now), p.Proto, p.Port)
				if fragment, _ := walk(byPref(now), p.Proto, 0); !got || fragment != fragments(p) {
					t.Fatalf("seed %d: %v is redirected in the end: %v, its fragments: %v", seed, p, got, fragment)
				}
			}
		}
	}
}

// Fragments have no ports, and no other rule redirects packets to a non-masquerade destination.
func TestFragmentRules_NonMasqueradeDestination_IsRedirected(t *testing.T) {
	in := testInput()
	snap := in.Snapshot
	in.NonMasquerade = []netip.Prefix{pfx("192.0.2.0/24"), pfx("2001:db8::/32")}
	has := func() (out []netip.Prefix) {
		for _, r := range mustMake(t, in).Host.ObjectRules {
			if r.Pref == prefFragments {
				out = append(out, r.To)
			}
		}
		return out
	}
	if got := has(); got != nil {
		t.Errorf("without a backend for UDP: %v", got)
	}
	snap.Services = []model.Service{{ObjectName: model.ObjectName{Name: "s"}, ClusterIPs: []netip.Addr{ip("10.43.0.9")},
		Ports: []model.ServicePort{{Protocol: model.UDP, Port: 80}}}}
	snap.Slices = []model.EndpointSlice{{ObjectName: model.ObjectName{Name: "s-1"},
		Service: "s", Ports: []model.EndpointPort{{Protocol: model.UDP, Port: 80}},
		Endpoints: []model.Endpoint{{Addr: ip("10.42.0.3"), Ready: true, Serving: true}}}}
	if got, want := has(), []netip.Prefix{pfx("10.42.0.0/24"), pfx("192.0.2.0/24"), pfx("fd42::/64"),
		pfx("2001:db8::/32")}; !slices.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
}

func TestReplyRules_ManyPorts_FewRulesPerPacket(t *testing.T) {
	var targets []servicelb.Port
	for i := range 200 {
		targets = append(targets, servicelb.Port{Proto: 6, Port: uint16(1000 + 7*i)})
	}
	rules := replyRules(netip.MustParsePrefix("10.42.0.0/16"), targets)
	rules = byPref(rules)
	worst := 0
	for port := range 65535 {
		_, n := walk(rules, 6, uint16(port))
		worst = max(worst, n)
	}
	if worst > 32 {
		t.Errorf("a packet passes up to %d of %d rules; expected at most 32", worst, len(rules))
	}
	for _, r := range rules {
		if r.Pref < prefReplies || r.Pref >= prefICMP {
			t.Errorf("%s: outside %d to %d", r, prefLocal, prefICMP)
		}
	}
}
