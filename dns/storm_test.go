package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/internal/model"
)

// large is a cluster of n Services, the first half headless, with endpoints endpoints in all.
func large(n, endpoints int) *model.Snapshot {
	s := &model.Snapshot{Revision: 1, Cluster: model.Cluster{Domain: "cluster.local", PodCIDRs: prefixes("10.0.0.0/9")}, ServiceCIDRs: prefixes("10.128.0.0/9")}
	per := 2 * endpoints / n
	for i := range n {
		ns := fmt.Sprintf("ns%02d", i%20)
		svc := model.Service{ObjectName: name(ns, fmt.Sprintf("svc-%d", i)), Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}}
		if i >= n/2 {
			svc.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})}
			s.Services = append(s.Services, svc)
			continue
		}
		svc.Headless = true
		sl := model.EndpointSlice{ObjectName: name(ns, svc.Name+"-1"), Service: svc.Name, Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
		for j := range per {
			k := i*per + j
			sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), Ready: true, Hostname: fmt.Sprintf("svc-%d-%d", i, j)})
		}
		s.Services, s.Slices = append(s.Services, svc), append(s.Slices, sl)
	}
	return s
}

// change returns a snapshot in which one Service's first endpoint has another address.
func change(s *model.Snapshot, i int, a netip.Addr) *model.Snapshot {
	next := *s
	next.Revision++
	next.Slices = slices.Clone(s.Slices)
	next.Slices[i].Endpoints = slices.Clone(s.Slices[i].Endpoints)
	next.Slices[i].Endpoints[0].Addr = a
	return &next
}

// TestIncrementalIsWhole holds that a server that saw every change says the same as one that saw the last state alone.
func TestIncrementalIsWhole(t *testing.T) {
	snap := large(200, 1000)
	z := &zoneConfig{domain: "\x07cluster\x05local\x00", labels: 2, ttl: 5}
	b := newBuilder(z, nil)
	var x *index
	for i := range 300 {
		switch i % 3 {
		case 0:
			snap = change(snap, i%100, netip.AddrFrom4([4]byte{10, 99, 0, byte(i % 7)})) // shared addresses come and go
		case 1:
			c := *snap
			c.Services = slices.Delete(slices.Clone(snap.Services), i%50, i%50+1)
			snap = &c
		case 2:
			c := *snap
			c.Services = slices.Clone(snap.Services)
			c.Services[i%100].PublishNotReady = !c.Services[i%100].PublishNotReady
			snap = &c
		}
		x = b.index(snap)
	}
	whole := newBuilder(z, nil).index(snap)
	if len(x.services) != len(whole.services) {
		t.Fatalf("%d Services, want %d", len(x.services), len(whole.services))
	}
	for i := range whole.reverse.shards {
		for a, want := range whole.reverse.shards[i] {
			if got := x.reverse.get(a); !slices.Equal(got, want) {
				t.Fatalf("%s: %q, want %q", a, got, want)
			}
		}
		if len(x.reverse.shards[i]) != len(whole.reverse.shards[i]) {
			t.Fatalf("reverse shard %d: %d addresses, want %d", i, len(x.reverse.shards[i]), len(whole.reverse.shards[i]))
		}
	}
	for key, want := range whole.services {
		got := x.services[key]
		if got == nil || len(got.subs) != len(want.subs) || fmt.Sprint(*got.self) != fmt.Sprint(*want.self) {
			t.Fatalf("%q differs", key)
		}
	}
}

// TestSnapshotStorm swaps snapshots under load: every question is answered, and rightly.
func TestSnapshotStorm(t *testing.T) {
	s, at := start(t, Config{Workers: 2})
	snap := large(400, 4000)
	s.Set(snap)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var asked [3]atomic.Int64
	for w := range 3 {
		wg.Go(func() { stormClient(t, at, w, &asked[w], &stop) })
	}
	for i := 0; i < 200 || asked[0].Load() < 500 || asked[1].Load() < 500 || asked[2].Load() < 500; i++ {
		snap = change(snap, i%200, netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}))
		s.Set(snap)
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// stormClient asks for names that never change beside those that do. A lost datagram would be a time-out.
func stormClient(t *testing.T, at netip.AddrPort, w int, asked *atomic.Int64, stop *atomic.Bool) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	conn := &mdns.Conn{Conn: c}
	for i := 0; !stop.Load(); i++ {
		n := 200 + (i*7+w)%200
		q := new(mdns.Msg).SetQuestion(fmt.Sprintf("svc-%d.ns%02d.svc.cluster.local.", n, n%20), mdns.TypeA)
		want := netip.AddrFrom4([4]byte{10, 128, byte(n >> 8), byte(n)}).String()
		if i%2 == 1 { // a headless one: always twenty endpoints
			q = new(mdns.Msg).SetQuestion(fmt.Sprintf("svc-%d.ns%02d.svc.cluster.local.", n-200, (n-200)%20), mdns.TypeA)
			want = ""
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return
		}
		r, err := conn.ReadMsg()
		if err != nil {
			t.Errorf("%s: %v", q.Question[0].Name, err)
			return
		}
		if want != "" && (len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != want) || want == "" && len(r.Answer) != 20 {
			t.Errorf("%s: %v, want %s", q.Question[0].Name, r, want)
			return
		}
		asked.Add(1)
	}
}

// BenchmarkSet is one endpoint's change in a cluster of 10,000 Services and 100,000 endpoints, and its first snapshot.
func BenchmarkSet(b *testing.B) {
	snap := large(10000, 100000)
	z := &zoneConfig{domain: "\x07cluster\x05local\x00", labels: 2, ttl: 5}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			newBuilder(z, nil).index(snap)
		}
	})
	b.Run("change", func(b *testing.B) {
		bu := newBuilder(z, nil)
		bu.index(snap)
		i := 0
		for b.Loop() {
			i++
			snap = change(snap, i%5000, netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}))
			bu.index(snap)
		}
	})
}
