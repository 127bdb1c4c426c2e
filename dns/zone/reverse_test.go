package zone

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/internal/model"
)

var testZone = &Config{Domain: "\x07cluster\x05local\x00", Labels: 2, TTL: 5}

func testSnapshot() *model.Snapshot {
	return &model.Snapshot{Cluster: model.Cluster{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}}
}

// addHeadless adds a headless Service with one slice.
func addHeadless(s *model.Snapshot, name model.ObjectName, created int64, endpoints ...model.Endpoint) {
	s.Services = append(s.Services, model.Service{ObjectName: name, Headless: true, Created: time.Unix(created, 0)})
	s.Slices = append(s.Slices, model.EndpointSlice{ObjectName: name, Service: name.Name, Endpoints: endpoints})
}

func readyAt(addr, hostname string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Hostname: hostname, Ready: true}
}

// pointersOf returns the names that a PTR query for a reverse name is answered with, and its zone.
func pointersOf(t *testing.T, x *Index, reverseName string) (names []string, kind Kind) {
	t.Helper()
	w, err := wire.EncodeName(reverseName)
	if err != nil {
		t.Fatal(err)
	}
	q := &wire.Query{}
	if q.Parse(wire.NewQuery(w, wire.TypePTR)) != wire.Simple {
		t.Fatalf("%s is not a simple query", reverseName)
	}
	r := x.Find(q)
	for _, n := range r.names {
		names = append(names, wire.DecodeName([]byte(n)))
	}
	return names, r.Zone
}

// A namespace user claims addresses of others by headless Services of his own that are older than theirs.
func TestReverse_HeadlessServiceWithOthersAddresses_OwnersNamesOnly(t *testing.T) {
	s := testSnapshot()
	evil := model.ObjectName{Namespace: "evil", Name: "a"}
	addHeadless(s, evil, 1, readyAt("10.43.0.5", "x"), readyAt("10.42.1.5", "x"), readyAt("10.42.1.6", "x"), readyAt("203.0.113.9", "x"),
		readyAt("10.43.0.6", "x"))
	addHeadless(s, model.ObjectName{Namespace: "prod", Name: "db"}, 2, readyAt("10.42.1.5", "db-0"))
	s.Services = append(s.Services, model.Service{ObjectName: model.ObjectName{Namespace: "prod", Name: "web"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.5")}, Created: time.Unix(3, 0)})
	s.Pods = []model.Pod{{ObjectName: model.ObjectName{Namespace: "prod", Name: "db-0"},
		Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.5")}}}
	x := NewBuilder(testZone, nil).Build(s)
	for name, want := range map[string][]string{
		"5.0.43.10.in-addr.arpa": {"web.prod.svc.cluster.local."},
		"6.0.43.10.in-addr.arpa": nil,
		"5.1.42.10.in-addr.arpa": {"db-0.db.prod.svc.cluster.local."},
		"6.1.42.10.in-addr.arpa": {"x.a.evil.svc.cluster.local."}, // no other object has it
	} {
		if got, _ := pointersOf(t, x, name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	if _, kind := pointersOf(t, x, "9.113.0.203.in-addr.arpa"); kind != External {
		t.Errorf("the reverse name of an external address is of zone %s, expected external", Kinds[kind])
	}
}

// A Service that gives one address many host names is served up to the bound, and reported.
func TestBuilder_ManyHostNamesOfOneAddress_CutAndReported(t *testing.T) {
	s := testSnapshot()
	var endpoints []model.Endpoint
	for i := range 8000 {
		endpoints = append(endpoints, readyAt("10.42.1.5", fmt.Sprintf("h-%d", i)))
	}
	addHeadless(s, model.ObjectName{Namespace: "d", Name: "many"}, 1, endpoints...)
	addHeadless(s, model.ObjectName{Namespace: "d", Name: "one"}, 1, readyAt("10.42.1.6", "h"))
	x := NewBuilder(testZone, nil).Build(s)
	if got, _ := pointersOf(t, x, "5.1.42.10.in-addr.arpa"); len(got) != maxNamesPerAddress {
		t.Errorf("%d names of one address, expected %d", len(got), maxNamesPerAddress)
	}
	if n := len(x.services["\x04many\x01d"].subs); n != maxNamesPerAddress {
		t.Errorf("%d names below the Service, expected %d", n, maxNamesPerAddress)
	}
	if p := x.Problems(); len(p) != 1 || !strings.Contains(p[0], "d/many: 7984 endpoints") {
		t.Errorf("problems %q, expected one of d/many with 7984 endpoints", p)
	}
}

func TestBuilder_ManyPortsAndEndpoints_RecordsCutAndReported(t *testing.T) {
	s := testSnapshot()
	var endpoints []model.Endpoint
	for i := range 1000 {
		endpoints = append(endpoints, readyAt(netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)}).String(), ""))
	}
	addHeadless(s, model.ObjectName{Namespace: "d", Name: "many"}, 1, endpoints...)
	for i := range 100 {
		s.Slices[0].Ports = append(s.Slices[0].Ports, model.EndpointPort{Name: fmt.Sprintf("p%d", i), Protocol: model.TCP, Port: uint16(i)})
	}
	x := NewBuilder(testZone, nil).Build(s)
	if p := x.Problems(); len(p) != 1 || !strings.Contains(p[0], fmt.Sprintf("%d SRV records", 100*1000-maxSRVTargets)) {
		t.Errorf("problems %q, expected one with %d records", p, 100*1000-maxSRVTargets)
	}
}

// Many Services have one address. The work for it grows with their number, not with its square.
func TestBuilder_ManyServicesWithOneAddress_LinearWork(t *testing.T) {
	work := func(services int) uint64 {
		s := testSnapshot()
		for i := range services {
			addHeadless(s, model.ObjectName{Namespace: "d", Name: fmt.Sprintf("s%06d", i)}, 1, readyAt("10.42.1.5", "h"))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		NewBuilder(testZone, nil).Build(s)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := work(1000), work(8000)
	if large > 16*small {
		t.Errorf("1,000 Services allocate %d bytes, 8,000 allocate %d: expected about eight times as much", small, large)
	}
}
