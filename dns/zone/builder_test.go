package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/dns/internal/dnstest"
)

// An index that was built over every change equals one that was built from the last snapshot alone.
func TestBuilder_ManyChanges_IndexEqualsAFreshOne(t *testing.T) {
	snap := dnstest.Cluster(200, 1000)
	z := &Config{Domain: "\x07cluster\x05local\x00", Labels: 2, TTL: 5}
	b := NewBuilder(z, nil)
	var x *Index
	for i := range 300 {
		switch i % 3 {
		case 0:
			snap = dnstest.ChangeEndpoint(snap, i%100, netip.AddrFrom4([4]byte{10, 99, 0, byte(i % 7)})) // shared addresses come and go
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
		x = b.Build(snap)
	}
	whole := NewBuilder(z, nil).Build(snap)
	if len(x.services) != len(whole.services) {
		t.Fatalf("%d Services, want %d", len(x.services), len(whole.services))
	}
	for i := range whole.reverse.shards {
		for a, want := range whole.reverse.shards[i] {
			if got := x.reverse.get(a); !slices.Equal(got.names, want.names) {
				t.Fatalf("%s: %q, want %q", a, got.names, want.names)
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

// BenchmarkBuild measures the first snapshot of a cluster with 10,000 Services and 100,000 endpoints, and a change of one
// endpoint.
func BenchmarkBuild(b *testing.B) {
	snap := dnstest.Cluster(10000, 100000)
	z := &Config{Domain: "\x07cluster\x05local\x00", Labels: 2, TTL: 5}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			NewBuilder(z, nil).Build(snap)
		}
	})
	b.Run("change", func(b *testing.B) {
		bu := NewBuilder(z, nil)
		bu.Build(snap)
		i := 0
		for b.Loop() {
			i++
			snap = dnstest.ChangeEndpoint(snap, i%5000, netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}))
			bu.Build(snap)
		}
	})
}
