package servicelb

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// kill leaves the file as a process does that is killed: mapped, and the lock gone.
func (b *Balancer) kill(t *testing.T) {
	t.Helper()
	if err := b.file.lock.Close(); err != nil {
		t.Fatal(err)
	}
	b.file.lock = nil
}

// A table from the node's disk may be older than the flows that were adopted: it ends none of them. The next one does.
func TestKeptTableEndsNothing(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
			want(t, b, b.Inbound(mk(packet.ProtoTCP, back, client, packet.SYN|packet.ACK)), packet.VerdictReflect, "an answer under a kept table")
			want(t, b, b.Outbound(mk(packet.ProtoTCP, client, vip, packet.ACK)), packet.VerdictPeer, "data under a kept table")
		}
		empty := Build(testSelf(), snap(nil, nil))
		b.SetKept(empty)
		b.Set(empty)
		want(t, b, b.Outbound(mk(packet.ProtoTCP, client, vip, packet.ACK)), packet.VerdictReply, "data under the first one that knows")
	})
}

func TestAdoption(t *testing.T) {
	a := families["4"]
	path := filepath.Join(t.TempDir(), "flows")
	table := tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far))
	start := func(max int) (*Balancer, *bytes.Buffer) {
		log := new(bytes.Buffer)
		b, err := New(Config{FlowFile: path, MaxFlows: max, Log: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b, log
	}
	ack := func(b *Balancer, port uint16) packet.Verdict {
		return b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.vip, 80), packet.ACK))
	}
	b, _ := start(64)
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
	for _, max := range []int{64, 64, 256, 32} {
		b.kill(t)
		b, _ = start(max)
		if n := len(b.Flows(nil, 0)); n != 10 {
			t.Fatalf("%d flows adopted", n)
		}
		want(t, b, ack(b, 4000), packet.VerdictDrop, "before the first table")
		b.Set(table)
		for i := range uint16(10) {
			want(t, b, ack(b, 4000+i), packet.VerdictPeer, "after adoption")
		}
		if f := b.Flows(nil, 1); f[0].State != "tcp-open" || f[0].Client.Addr() != ip(a.pod) {
			t.Fatal(f)
		}
	}
	for i := range b.flows.slots { // one entry is torn, one half unlinked, one from the future
		e := &b.flows.slots[i]
		switch e.way[orig].sport {
		case 4001:
			e.way[reply].dport++
		case 4002:
			e.status.Store(e.status.Load()&^stateMask | dying)
		case 4003:
			e.seen.Store(1 << 30)
		}
	}
	b.kill(t)
	b, log := start(32)
	b.Set(table)
	for i := range uint16(10) {
		v := packet.VerdictPeer
		if i >= 1 && i <= 3 {
			v = packet.VerdictReply
		}
		want(t, b, ack(b, 4000+i), v, fmt.Sprint("flow ", i))
	}
	if !strings.Contains(log.String(), "damaged=2") {
		t.Fatal(log)
	}
	for i := range uint16(20) { // the slots of the bad ones are free again
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, 5000+i), at(a.vip, 80), packet.SYN)), packet.VerdictPeer, "new flow")
		if n := b.room(); n != 8+int(i) {
			t.Fatalf("%d slots used after %d", n, i)
		}
	}
}

func (b *Balancer) room() int { return int(b.flows.room.used.Load()) }

// Sessions outlive the process: a client goes on where its newest connection is, though a hash would choose otherwise.
func TestSessionsAreAdopted(t *testing.T) {
	both(t, func(t *testing.T, a places) {
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
		b.clock.Store(b.now() - 20) // adoption believes no times to come
		b.Set(table(a.far))
		clients(func(c netip.Addr) { open(c, 4000) })
		b.clock.Add(10)
		b.Set(table(other))
		clients(func(c netip.Addr) { open(c, 4001) })
		b.clock.Add(10)
		all := table(a.far, other)
		b.Set(all)
		clients(func(c netip.Addr) { open(c, 4000) }) // the older connection goes on, and says nothing
		b.kill(t)
		if b, err = New(Config{FlowFile: path, MaxFlows: 4096}); err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		b.Set(all)
		clients(func(c netip.Addr) {
			if got := open(c, 4002); got != ip(other) {
				t.Fatalf("%v went on at %v", c, got)
			}
		})
	})
}

func TestBadFilesAreSetAside(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"newer":     func(b []byte) []byte { b[8]++; return b },
		"no magic":  func(b []byte) []byte { b[0]++; return b },
		"damaged":   func(b []byte) []byte { b[17]++; return b },
		"reboot":    func(b []byte) []byte { h := newHeader(64); h.boot[3]++; h.encode(b); return b },
		"short":     func(b []byte) []byte { return b[:len(b)-1] },
		"empty":     func(b []byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:100] },
		"huge":      func(b []byte) []byte { newHeader(maxCapacity).encode(b); return b },
		"directory": nil,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flows")
			if spoil == nil {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			} else {
				b, err := New(Config{FlowFile: path, MaxFlows: 64})
				if err != nil {
					t.Fatal(err)
				}
				b.Close()
				raw, _ := os.ReadFile(path)
				if err := os.WriteFile(path, spoil(raw), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			b, err := New(Config{FlowFile: path, MaxFlows: 64, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, err := os.Stat(path + ".aside"); err != nil || !strings.Contains(log.String(), "set aside") {
				t.Fatal(err, log.String())
			}
			if st, err := os.Stat(path); err != nil || st.Mode() != fs.FileMode(0o600) {
				t.Fatal(st, err)
			}
		})
	}
}

// FuzzAdopt: whatever bytes are in the slots, the table that comes of them is sound.
func FuzzAdopt(f *testing.F) {
	a := families["4"]
	b, err := New(Config{FlowFile: filepath.Join(f.TempDir(), "flows"), MaxFlows: 4})
	if err != nil {
		f.Fatal(err)
	}
	b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
	b.Outbound(mk(packet.ProtoTCP, at(a.pod, 1), at(a.vip, 80), packet.SYN))
	f.Add(bytes.Clone(b.file.mem[headerSize:]))
	b.Close()
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "flows")
		mem := make([]byte, headerSize+4*int(entrySize))
		newHeader(4).encode(mem)
		copy(mem[headerSize:], raw)
		if err := os.WriteFile(path, mem, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := New(Config{FlowFile: path, MaxFlows: 4})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		flows := b.Flows(nil, 0)
		if len(flows) != b.room() || len(flows) > 4 {
			t.Fatal(len(flows), b.room())
		}
		b.Set(tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
		for i := range uint16(8) {
			b.Outbound(mk(packet.ProtoTCP, at(a.pod, 100+i), at(a.vip, 80), packet.SYN))
		}
		b.flows.sweep(b.now() + 1<<20)
		if b.room() != 0 {
			t.Fatal(b.room(), "slots after the last sweep")
		}
	})
}
