package lbpool

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// Reserved ranges are removed from pools, and the ranges of preceding pools from later ones.
func TestWithout_OverlappingPools_LoseTheSharedAddresses(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		problems   int
		pools      []model.AddressPool
		kept       []Reservation
	}{
		{"nothing to do", "[{a [192.0.2.8-192.0.2.15]}]", 0,
			[]model.AddressPool{{Name: "a", Ranges: rng(t, "192.0.2.8/29")}}, []Reservation{Address(ip("192.0.2.7"), "of node n1"),
				Address(ip("fd77::8"), "of node n1")}},
		{"in the middle, and twice", "[{a [192.0.2.8-192.0.2.9 192.0.2.11-192.0.2.13 192.0.2.15]}]", 2,
			[]model.AddressPool{{Name: "a", Ranges: rng(t, "192.0.2.8/29")}}, []Reservation{Address(ip("192.0.2.10"), "of node n1"),
				Address(ip("192.0.2.14"), "of node n2")}},
		{"at both ends", "[{a [192.0.2.10-192.0.2.13]}]", 2,
			[]model.AddressPool{{Name: "a", Ranges: rng(t, "192.0.2.8/29")}}, []Reservation{{rng(t, "192.0.2.0-192.0.2.9")[0], ""},
				{rng(t, "192.0.2.14-192.0.2.99")[0], ""}}},
		{"all of it", "[{a []} {b [fd77::1-fd77::9]}]", 1,
			[]model.AddressPool{{Name: "a", Ranges: rng(t, "10.43.0.0/28")},
				{Name: "b", Ranges: rng(t, "fd77::1-fd77::9")}}, []Reservation{{rng(t, "10.43.0.0/16")[0], "(Services)"}}},
		{"another pool and itself", "[{a [192.0.2.8-192.0.2.15]} {b [192.0.2.16-192.0.2.20]}]", 3,
			[]model.AddressPool{{Name: "a", Ranges: rng(t, "192.0.2.8/29")},
				{Name: "b", Ranges: rng(t, "192.0.2.10-192.0.2.20", "192.0.2.12-192.0.2.12")}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, problems := Without(tc.pools, tc.kept)
			type short struct {
				Name   string
				Ranges []model.AddressRange
			}
			var got []short
			for _, p := range out {
				got = append(got, short{p.Name, p.Ranges})
			}
			if fmt.Sprint(got) != tc.want || len(problems) != tc.problems {
				t.Errorf("%v with problems %v; expected %s and %d", got, problems, tc.want, tc.problems)
			}
		})
	}
}

func TestSettle_TwoHoldersOfOneAddress_YoungerLosesIt(t *testing.T) {
	holds := func(name, key string, port uint16, addrs ...string) model.Service {
		return service(name, func(s *model.Service) {
			s.Annotations[ShareAnnotation], s.Ports[0].Port = key, port
			for _, a := range addrs {
				s.LBAddresses = append(s.LBAddresses, ip(a))
			}
		})
	}
	list := []model.Service{holds("old", "k", 80, "192.0.2.1"), holds("shares", "k", 81, "192.0.2.1"),
		holds("young", "", 82, "192.0.2.1", "fd77::1")}
	taken := Settle(list, nil)
	if len(list[1].LBAddresses) != 1 || len(list[2].LBAddresses) != 1 || list[2].LBAddresses[0] != ip("fd77::1") {
		t.Errorf("holds %v", list)
	}
	if len(taken) != 2 || len(taken[ip("192.0.2.1")]) != 2 {
		t.Errorf("taken %v", taken)
	}
	r, _ := RequestOf(&list[1])
	taken.Set(r.Use, []netip.Addr{ip("192.0.2.2")})
	if len(taken[ip("192.0.2.1")]) != 1 || len(taken[ip("192.0.2.2")]) != 1 {
		t.Errorf("after a move: %v", taken)
	}
	taken.Set(r.Use, nil)
	if _, there := taken[ip("192.0.2.2")]; there {
		t.Errorf("after the release: %v", taken)
	}
}

// A Service that changes its port to that of another one, with which it shares an address, loses the address, also if it is older.
func TestSettle_SharedAddress_IncumbentKeepsAddressAndPort(t *testing.T) {
	holds := func(name string, age int64, port uint16) model.Service {
		return service(name, func(s *model.Service) {
			s.Annotations[ShareAnnotation], s.Ports[0].Port = "k", port
			s.Created, s.LBAddresses = time.Unix(age, 0), []netip.Addr{ip("192.0.2.1")}
		})
	}
	before := Settle([]model.Service{holds("victim", 2, 80), holds("attacker", 1, 81)}, nil)
	for _, order := range [][]model.Service{{holds("attacker", 1, 80), holds("victim", 2, 80)},
		{holds("victim", 2, 80), holds("attacker", 1, 80)}} {
		taken := Settle(order, before)
		for i := range order {
			if want := order[i].Name == "victim"; (len(order[i].LBAddresses) == 1) != want {
				t.Errorf("%s holds %v", order[i].Name, order[i].LBAddresses)
			}
		}
		if u := taken[ip("192.0.2.1")]; len(u) != 1 || u[0].Name != "victim" {
			t.Errorf("taken %v", taken)
		}
	}
	// After a restart of the controller the older one keeps it, whatever the order.
	order := []model.Service{holds("young", 2, 80), holds("old", 1, 80)}
	if Settle(order, nil); len(order[0].LBAddresses) != 0 || len(order[1].LBAddresses) != 1 {
		t.Errorf("holds %v", order)
	}
}

// Services of two namespaces share an address only if both consent.
func TestChoose_SharedAcrossNamespaces_NeedsBothConsents(t *testing.T) {
	pools := []model.AddressPool{{Name: "a", AutoAssign: true, Ranges: rng(t, "192.0.2.1-192.0.2.1")}}
	for _, c := range []struct {
		victim, other string
		want          bool
	}{{"", "", false}, {"b", "", false}, {"", "a", false}, {"b", "a", true}, {"*", "a", true}, {"b", "*", true}, {"c", "a", false}} {
		t.Run(fmt.Sprintf("%q and %q", c.victim, c.other), func(t *testing.T) {
			sharing := func(namespace, with string, port uint16) model.Service {
				return service(namespace, func(s *model.Service) {
					s.Namespace, s.Ports[0].Port = namespace, port
					s.Annotations[ShareAnnotation], s.Annotations[ShareWithAnnotation] = "k", with
				})
			}
			a, b := sharing("a", c.victim, 80), sharing("b", c.other, 81)
			a.LBAddresses = []netip.Addr{ip("192.0.2.1")}
			b.ClusterIPs = b.ClusterIPs[:1]
			r, err := RequestOf(&b)
			if err != nil {
				t.Fatal(err)
			}
			got, why := Choose(r, pools, TakenBy([]model.Service{a}))
			if (len(got) == 1) != c.want {
				t.Errorf("consents %q and %q: got %v (%v), expected %t", c.victim, c.other, got, why, c.want)
			}
		})
	}
}

func TestGiven_AnnotationOrPool_AddressIsOfWarren(t *testing.T) {
	pools := []model.AddressPool{{Name: "a", Ranges: rng(t, "192.0.2.8/29")}}
	s := service("s", func(s *model.Service) {
		s.Annotations[RecordAnnotation] = Record([]netip.Addr{ip("198.51.100.1"), ip("fd77::1")})
	})
	for a, want := range map[string]bool{"192.0.2.9": true, "198.51.100.1": true, "fd77::1": true, "203.0.113.1": false} {
		if Given(&s, ip(a), pools) != want {
			t.Errorf("%s: expected %v", a, want)
		}
	}
}
