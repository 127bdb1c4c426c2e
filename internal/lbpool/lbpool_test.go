package lbpool

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/model"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func rng(t testing.TB, list ...string) (out []model.AddressRange) {
	t.Helper()
	for _, s := range list {
		r, err := ParseRange(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		out = append(out, r)
	}
	return out
}

// service is a LoadBalancer Service of one family, or of both.
func service(name string, more func(*model.Service)) model.Service {
	s := model.Service{ObjectName: model.ObjectName{Namespace: "d", Name: name}, UID: "uid-" + name, Type: model.LoadBalancer,
		ClusterIPs: []netip.Addr{ip("10.43.0.1")}, Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}},
		Annotations: map[string]string{}}
	if more != nil {
		more(&s)
	}
	return s
}

func TestParseRange_CIDRsAndRanges_BoundsOrError(t *testing.T) {
	for _, tc := range []struct {
		text, first, last string
		size              uint64
	}{
		{"192.0.2.0/28", "192.0.2.0", "192.0.2.15", 16},
		{"192.0.2.7/32", "192.0.2.7", "192.0.2.7", 1},
		{"192.0.2.10-192.0.2.20", "192.0.2.10", "192.0.2.20", 11},
		{"192.0.2.250-192.0.3.5", "192.0.2.250", "192.0.3.5", 12},
		{"fd77::/120", "fd77::", "fd77::ff", 256},
		{"fd77::/64", "fd77::", "fd77::ffff:ffff:ffff:ffff", most},
		{"fd77::ffff:ffff:ffff:fffe-fd77:0:0:1::1", "fd77::ffff:ffff:ffff:fffe", "fd77:0:0:1::1", 4},
		{"fd77::5-fd77:0:0:1::5", "fd77::5", "fd77:0:0:1::5", most},
	} {
		t.Run(tc.text, func(t *testing.T) {
			r := rng(t, tc.text)[0]
			if r.First != ip(tc.first) || r.Last != ip(tc.last) || size(r) != tc.size {
				t.Errorf("%s: %s with %d addresses, expected %s-%s with %d", tc.text, r, size(r), tc.first, tc.last, tc.size)
			}
		})
	}
	list := rng(t, "192.0.2.9-192.0.2.10", "fd77::ffff:ffff:ffff:fffe-fd77:0:0:1::1", "192.0.2.254-192.0.3.1")
	var got []string
	for i := range uint64(6) {
		got = append(got, nth(list, model.IPv4, i).String())
	}
	if want := "192.0.2.9 192.0.2.10 192.0.2.254 192.0.2.255 192.0.3.0 192.0.3.1"; strings.Join(got, " ") != want {
		t.Errorf("%v, expected %s", got, want)
	}
	if a := nth(list, model.IPv6, 2); a != ip("fd77:0:0:1::") {
		t.Errorf("the third IPv6 address is %s", a)
	}
}

// Each case is a Service, the Services that hold addresses, and what the Service gets.
func TestChoose_EachRequest_AddressesOrReason(t *testing.T) {
	pools := []model.AddressPool{
		{Name: "auto", Ranges: rng(t, "192.0.2.10-192.0.2.11", "fd77::10/128"), AutoAssign: true},
		{Name: "best", Ranges: rng(t, "192.0.2.20-192.0.2.20"), AutoAssign: true, Priority: 5, Namespaces: []string{"vip"}},
		{Name: "hand", Ranges: rng(t, "192.0.2.30-192.0.2.31")},
	}
	dual := func(s *model.Service) { s.ClusterIPs = append(s.ClusterIPs, ip("fd43::1")) }
	note := func(k, v string) func(*model.Service) { return func(s *model.Service) { s.Annotations[k] = v } }
	both := func(f ...func(*model.Service)) func(*model.Service) {
		return func(s *model.Service) {
			for _, x := range f {
				x(s)
			}
		}
	}
	holds := func(name, key, a string, more func(*model.Service)) model.Service {
		s := service(name, more)
		s.LBAddresses, s.Annotations[ShareAnnotation] = []netip.Addr{ip(a)}, key
		return s
	}
	local := func(s *model.Service) {
		s.ExternalPolicy, s.Selector = model.PolicyLocal, map[string]string{"app": "x"}
	}
	udp := func(s *model.Service) { s.Ports[0].Protocol = model.UDP }
	for _, tc := range []struct {
		name   string
		s      model.Service
		others []model.Service
		want   string // addresses, or part of the reason
	}{
		{"the free one", service("a", nil), []model.Service{holds("b", "", "192.0.2.10", nil)}, "192.0.2.11"},
		{"both families", service("a", both(dual, note(PoolAnnotation, "auto"))),
			[]model.Service{holds("b", "", "192.0.2.11", nil)}, "192.0.2.10 fd77::10"},
		{"one family only", service("a", dual), []model.Service{holds("b", "", "192.0.2.11", nil), holds("c", "", "fd77::10", nil)},
			"192.0.2.10 / every IPv6 address of auto is taken"},
		{"priority", service("a", func(s *model.Service) { s.Namespace = "vip" }), nil, "192.0.2.20"},
		{"exhausted", service("a", nil), []model.Service{holds("b", "", "192.0.2.10", nil), holds("c", "", "192.0.2.11", nil)},
			"every IPv4 address of auto is taken"},
		{"by hand", service("a", note(RequestAnnotation, "192.0.2.30")), nil, "192.0.2.30"},
		{"spec", service("a", func(s *model.Service) { s.LBRequested = ip("192.0.2.31") }), nil, "192.0.2.31"},
		{"annotation and spec", service("a", both(note(RequestAnnotation, "192.0.2.30"),
			func(s *model.Service) { s.LBRequested = ip("192.0.2.31") })), nil, "exclude each other"},
		{"no address", service("a", note(RequestAnnotation, "x")), nil, `"x" is not an IP address`},
		{"two of a family", service("a", note(RequestAnnotation, "192.0.2.30, 192.0.2.31")), nil, "more than one address of a family"},
		{"family it lacks", service("a", note(RequestAnnotation, "fd77::10")), nil, "no IPv6 address"},
		{"outside", service("a", note(RequestAnnotation, "192.0.2.99")), nil, "192.0.2.99 lies in no pool"},
		{"not for it", service("a", note(RequestAnnotation, "192.0.2.20")), nil, "does not serve namespace d"},
		{"held", service("a", note(RequestAnnotation, "192.0.2.30")), []model.Service{holds("b", "", "192.0.2.30", nil)},
			"192.0.2.30 is held by service d/b"},
		{"other pool", service("a", both(note(RequestAnnotation, "192.0.2.30"), note(PoolAnnotation, "auto"))), nil,
			"belongs to pool hand, not to auto"},
		{"named pool", service("a", note(PoolAnnotation, "hand")), []model.Service{holds("b", "", "192.0.2.31", nil)}, "192.0.2.30"},
		{"no such pool", service("a", note(PoolAnnotation, "nope")), nil, "pool nope does not exist"},
		{"named pool without the family", service("a",
			both(note(PoolAnnotation, "hand"), func(s *model.Service) { s.ClusterIPs[0] = ip("fd43::1") })), nil,
			"pool hand has no IPv6 addresses"},
		{"keeps", service("a", func(s *model.Service) { s.LBAddresses = []netip.Addr{ip("192.0.2.11")} }), nil, "192.0.2.11"},
		{"keeps without a pool", service("a", func(s *model.Service) { s.LBAddresses = []netip.Addr{ip("198.51.100.1")} }), nil,
			"198.51.100.1"},
		{"moves to the pool it names", service("a",
			both(note(PoolAnnotation, "hand"), func(s *model.Service) { s.LBAddresses = []netip.Addr{ip("192.0.2.11")} })),
			[]model.Service{holds("b", "", "192.0.2.30", nil)}, "192.0.2.31"},
		{"shares", service("a", both(udp, note(ShareAnnotation, "k"))), []model.Service{holds("b", "k", "192.0.2.11", nil)}, "192.0.2.11"},
		{"shares what it names", service("a", both(udp, note(ShareAnnotation, "k"), note(RequestAnnotation, "192.0.2.11"))),
			[]model.Service{holds("b", "k", "192.0.2.11", nil)}, "192.0.2.11"},
		{"same port", service("a", both(note(ShareAnnotation, "k"), note(RequestAnnotation, "192.0.2.11"))),
			[]model.Service{holds("b", "k", "192.0.2.11", nil)}, "uses TCP port 80 too"},
		{"another key", service("a", both(udp, note(ShareAnnotation, "l"), note(RequestAnnotation, "192.0.2.11"))),
			[]model.Service{holds("b", "k", "192.0.2.11", nil)}, "is held by service d/b"},
		{"local and others", service("a", both(udp, local, note(ShareAnnotation, "k"), note(RequestAnnotation, "192.0.2.11"))),
			[]model.Service{holds("b", "k", "192.0.2.11", nil)}, "policy Cluster"},
		{"local with one selector", service("a", both(udp, local, note(ShareAnnotation, "k"))),
			[]model.Service{holds("b", "k", "192.0.2.11", local)}, "192.0.2.11"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got string
			r, err := RequestOf(&tc.s)
			if err != nil {
				got = err.Error()
			} else {
				addrs, why := Choose(r, pools, TakenBy(append(tc.others, tc.s)))
				for _, a := range addrs {
					got = strings.TrimSpace(got + " " + a.String())
				}
				for _, w := range why {
					got = strings.TrimPrefix(got+" / "+w, " / ")
				}
			}
			if got != tc.want && (!strings.Contains(got, tc.want) || !strings.Contains(tc.want, " ") || len(tc.want) > 0 &&
				tc.want[0] == '1') {
				t.Errorf("%q, expected %q", got, tc.want)
			}
		})
	}
	if _, why := Choose(Request{Families: []model.Family{model.IPv4}}, nil, nil); !slices.Equal(why, []string{"there is no AddressPool"}) {
		t.Errorf("without pools: %v", why)
	}
}

func TestOurs_ClassAndType_DecideTheOwner(t *testing.T) {
	for class, want := range map[string]bool{"": true, Class: true, "example.com/lb": false} {
		t.Run("class "+class, func(t *testing.T) {
			if s := service("a", func(s *model.Service) { s.LBClass = class }); Ours(&s) != want {
				t.Errorf("class %q: %v", class, !want)
			}
		})
	}
	if s := service("a", func(s *model.Service) { s.Type = model.NodePort }); Ours(&s) {
		t.Error("warren assigns addresses to a NodePort Service")
	}
}

// Services are created, changed and deleted at random. After each step: holders may hold their addresses, no Service waits
// while an address is free, and an unchanged Service keeps its addresses.
func TestChoose_RandomHistories_KeepTheInvariants(t *testing.T) {
	for seed := range uint64(300) {
		d := rand.New(rand.NewPCG(seed, 1))
		pools := []model.AddressPool{{Name: "p", Ranges: rng(t, "192.0.2.0/30", "fd77::/126"), AutoAssign: true},
			{Name: "q", Ranges: rng(t, "192.0.2.8-192.0.2.9"), AutoAssign: d.IntN(2) == 0}}
		var list []model.Service
		for step := range 60 {
			i := d.IntN(10)
			name := fmt.Sprintf("s%d", i)
			at := slices.IndexFunc(list, func(s model.Service) bool { return s.Name == name })
			if at >= 0 && d.IntN(3) == 0 {
				list = slices.Delete(list, at, at+1)
				continue
			}
			s := random(d, name)
			if at >= 0 {
				s.LBAddresses, list[at] = list[at].LBAddresses, s
			} else {
				list, at = append(list, s), len(list)
			}
			r, err := RequestOf(&list[at])
			if err != nil {
				t.Fatal(err)
			}
			before := slices.Clone(list[at].LBAddresses)
			taken := TakenBy(list)
			got, why := Choose(r, pools, taken)
			again, _ := Choose(r, pools, taken)
			if d := cmp.Diff(got, again, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Fatalf("seed %d step %d: another answer to the same question:\n%s", seed, step, d)
			}
			list[at].LBAddresses = got
			if len(got)+len(why) != len(list[at].ClusterIPs) {
				t.Fatalf("seed %d step %d: %v and %v for %d families", seed, step, got, why, len(list[at].ClusterIPs))
			}
			for _, a := range before {
				if !slices.Contains(got, a) && slices.Contains(r.Families, model.FamilyOf(a)) && allowed(list, list[at], a) {
					t.Fatalf("seed %d step %d: %s lost %s for nothing", seed, step, name, a)
				}
			}
			for _, f := range r.Families {
				for _, a := range all(pools, f) {
					if !slices.ContainsFunc(got, func(b netip.Addr) bool { return model.FamilyOf(b) == f }) && allowed(list, list[at], a) {
						t.Fatalf("seed %d step %d: %s waits although it could have %s: %v", seed, step, name, a, why)
					}
				}
			}
			mustHold(t, fmt.Sprintf("seed %d step %d", seed, step), list, pools)
		}
	}
}

// all lists the addresses that pools assign by themselves.
func all(pools []model.AddressPool, f model.Family) (out []netip.Addr) {
	for _, p := range pools {
		for _, r := range p.Ranges {
			for a := r.First; p.AutoAssign && model.FamilyOf(a) == f && r.Contains(a); a = a.Next() {
				out = append(out, a)
			}
		}
	}
	return out
}

func random(d *rand.Rand, name string) model.Service {
	return service(name, func(s *model.Service) {
		if d.IntN(2) == 0 {
			s.ClusterIPs = append(s.ClusterIPs, ip("fd43::1"))
		}
		if d.IntN(2) == 0 {
			s.Annotations[ShareAnnotation] = []string{"k", "l"}[d.IntN(2)]
		}
		s.Ports[0].Port = uint16(80 + d.IntN(3))
		if d.IntN(4) == 0 {
			s.ExternalPolicy = model.PolicyLocal
		}
		s.Selector = map[string]string{"app": []string{"x", "y"}[d.IntN(2)]}
	})
}

// allowed is a second, naive implementation of the sharing rule.
func allowed(list []model.Service, me model.Service, a netip.Addr) bool {
	for _, o := range list {
		if o.UID == me.UID || !slices.Contains(o.LBAddresses, a) {
			continue
		}
		key := me.Annotations[ShareAnnotation]
		sameKey := key != "" && key == o.Annotations[ShareAnnotation]
		samePort := o.Ports[0].Port == me.Ports[0].Port
		bothCluster := o.ExternalPolicy == model.PolicyCluster && me.ExternalPolicy == model.PolicyCluster
		if !sameKey || samePort || !bothCluster && o.Selector["app"] != me.Selector["app"] {
			return false
		}
	}
	return true
}

func mustHold(t *testing.T, when string, list []model.Service, pools []model.AddressPool) {
	t.Helper()
	for _, s := range list {
		for i, a := range s.LBAddresses {
			if Pool(pools, a) == nil || !allowed(list, s, a) || i > 0 && s.LBAddresses[0].Is6() == a.Is6() {
				t.Fatalf("%s: %s may not hold %s (of %v)", when, s.Name, a, s.LBAddresses)
			}
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"192.0.2.0/28", "192.0.2.1-192.0.2.9", "fd77::/64", "-", "/", "fd77::1-fd77::2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		n := size(r)
		if n == 0 || r.Last.Less(r.First) || !r.Contains(nth([]model.AddressRange{r}, model.FamilyOf(r.First), n-1)) ||
			nth([]model.AddressRange{r}, model.FamilyOf(r.First), n).IsValid() {
			t.Errorf("%q: %s with %d addresses", s, r, n)
		}
	})
}
