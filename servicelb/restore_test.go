package servicelb

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// A table from the node's disk may be older than the restored flows: it ends none of them. The next table may.
func TestSetKept_OldTable_EndsNoRestoredFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		path := filepath.Join(t.TempDir(), "flows")
		open := func() *Balancer {
			b, err := New(Config{FlowFile: path, MaxFlows: 64})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		b := open()
		b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
		client, vip := at(a.pod, 4000), at(a.vip, 80)
		p := mk(packet.ProtoTCP, client, vip, packet.SYN)
		want(t, b, b.Outbound(p), packet.VerdictPeer, "SYN")
		back := p.Destination()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open()
		defer b.Close()
		for range 2 {
			b.SetKept(Build(testSelf(), snap(nil, nil)))
			want(t, b, b.Inbound(mk(packet.ProtoTCP, back, client, packet.SYN|packet.ACK)), packet.VerdictReflect,
				"an answer under a kept table")
			want(t, b, b.Outbound(mk(packet.ProtoTCP, client, vip, packet.ACK)), packet.VerdictPeer, "data under a kept table")
		}
		empty := Build(testSelf(), snap(nil, nil))
		b.SetKept(empty)
		b.Set(empty)
		want(t, b, b.Outbound(mk(packet.ProtoTCP, client, vip, packet.ACK)), packet.VerdictReply, "data under the first current table")
	})
}

func TestNew_FlowFile_FlowsRestored(t *testing.T) {
	a := families["4"]
	path := filepath.Join(t.TempDir(), "flows")
	table := tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far))
	start := func(capacity int) *Balancer {
		b, err := New(Config{FlowFile: path, MaxFlows: capacity})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	ack := func(b *Balancer, port uint16) packet.Verdict {
		return b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.vip, 80), packet.ACK))
	}
	b := start(64)
	b.Set(table)
	for i := range uint16(10) {
		p := mk(packet.ProtoTCP, at(a.pod, 4000+i), at(a.vip, 80), packet.SYN)
		want(t, b, b.Outbound(p), packet.VerdictPeer, "SYN")
		b.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK))
		ack(b, 4000+i)
	}
	if _, err := New(Config{FlowFile: path, MaxFlows: 64}); err == nil {
		t.Fatal("two processes have one file")
	}
	for _, capacity := range []int{64, 64, 256, 32} {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = start(capacity)
		if n := len(b.Flows(nil, 0)); n != 10 {
			t.Fatalf("%d flows restored", n)
		}
		want(t, b, ack(b, 4000), packet.VerdictDrop, "before the first table")
		b.Set(table)
		for i := range uint16(10) {
			want(t, b, ack(b, 4000+i), packet.VerdictPeer, "after restoring")
		}
		if f := b.Flows(nil, 1); f[0].State != "tcp-open" || f[0].Client.Addr() != ip(a.pod) {
			t.Fatal(f)
		}
	}
}

func (b *Balancer) room() int { return b.flows.Len() }

// Sessions survive the process: a client keeps the backend of its newest connection, although a hash would select another.
func TestNew_FlowFile_SessionsRestored(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		path := filepath.Join(t.TempDir(), "flows")
		other := ip(a.far).Next().String()
		table := func(backends ...string) *Table {
			svc, parts := service("web", packet.ProtoTCP, a.vip, 80, 8080, backends...)
			svc.Affinity = 1000e9
			return tableOf(svc, parts)
		}
		b, err := New(Config{FlowFile: path, MaxFlows: 4096})
		if err != nil {
			t.Fatal(err)
		}
		open := func(client netip.Addr, port uint16) netip.Addr {
			p := mk(packet.ProtoTCP, netip.AddrPortFrom(client, port), at(a.vip, 80), packet.SYN)
			want(t, b, b.Outbound(p), packet.VerdictPeer, "SYN")
			return p.Dst
		}
		clients := func(each func(netip.Addr)) {
			for i, c := 0, ip(a.outside); i < 100; i, c = i+1, c.Next() {
				each(c)
			}
		}
		b.clock.Store(b.now() - 20) // a flow of a later time is not restored
		b.Set(table(a.far))
		clients(func(c netip.Addr) { open(c, 4000) })
		b.clock.Add(10)
		b.Set(table(other))
		clients(func(c netip.Addr) { open(c, 4001) })
		b.clock.Add(10)
		all := table(a.far, other)
		b.Set(all)
		clients(func(c netip.Addr) { open(c, 4000) }) // the older connection continues and is not the newest
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err = New(Config{FlowFile: path, MaxFlows: 4096}); err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.Set(all)
		clients(func(c netip.Addr) {
			if got := open(c, 4002); got != ip(other) {
				t.Fatalf("%v continued at %v", c, got)
			}
		})
	})
}
