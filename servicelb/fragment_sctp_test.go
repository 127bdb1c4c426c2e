package servicelb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// sctpFragments cuts an SCTP packet with so many bytes of payload into fragments of 512.
func sctpFragments(src, dst netip.AddrPort, id uint32, payload int) (out []*packet.Packet) {
	l4 := l4ports(packet.ProtoSCTP, src.Port(), dst.Port(), 0, payload)
	packet.SCTPChecksum(l4)
	for at := 0; at < len(l4); at += 512 {
		part, more := l4[at:min(at+512, len(l4))], uint16(0)
		if at+512 < len(l4) {
			more = 1
		}
		var b []byte
		if src.Addr().Is4() {
			b = ipHeader(src.Addr(), dst.Addr(), packet.ProtoSCTP, len(part))
			binary.BigEndian.PutUint16(b[4:], uint16(id))
			binary.BigEndian.PutUint16(b[6:], more<<13|uint16(at/8))
		} else {
			b = ipHeader(src.Addr(), dst.Addr(), 44, 8+len(part))
			b = append(b, packet.ProtoSCTP, 0)
			b = binary.BigEndian.AppendUint16(b, uint16(at)|more)
			b = binary.BigEndian.AppendUint32(b, id)
		}
		p := new(packet.Packet)
		if f := p.Parse(append(b, part...)); f != packet.OK {
			panic(f)
		}
		p.FixIPChecksum()
		out = append(out, p)
	}
	return out
}

// reassemble is what a receiver does with fragments, in any order.
func reassemble(t *testing.T, fragments []*packet.Packet) (src, dst netip.AddrPort, l4 []byte) {
	t.Helper()
	for _, p := range fragments {
		if intact(t, p); p.Src != fragments[0].Src || p.Dst != fragments[0].Dst || p.FragID != fragments[0].FragID {
			t.Fatalf("%v -> %v is no part of %v -> %v", p.Src, p.Dst, fragments[0].Src, fragments[0].Dst)
		}
		size, ok := p.FragmentSize()
		if !ok {
			t.Fatal("no size")
		}
		l4 = slices.Grow(l4, max(0, p.FragOff+size-len(l4)))[:max(len(l4), p.FragOff+size)]
		copy(l4[p.FragOff:], p.Buf[len(p.Buf)-size:])
		if p.HasL4 {
			src, dst = p.Source(), p.Destination()
		}
	}
	return src, dst, l4
}

// Fragmented SCTP passes a Service whose port differs from the target port, in both directions, with a correct checksum.
func TestFragment_SCTPPortsChanged_ChecksumCorrect(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoSCTP, a.vip, 80, 8080, a.far)))
		var sent []*packet.Packet
		var where packet.Verdict
		b.SendBy(func(raw []byte, to packet.Verdict) { sent, where = append(sent, errorOf(raw)), to })
		client, vip, back := at(a.pod, 4000), at(a.vip, 80), at(a.far, 8080)
		for i, payload := range []int{501, 512, 1600, 60000} {
			for _, c := range []struct {
				pass             func(*packet.Packet) packet.Verdict
				to               packet.Verdict
				src, dst, as, at netip.AddrPort
			}{{b.Outbound, packet.VerdictPeer, client, vip, client, back}, {b.Inbound, packet.VerdictReflect, back, client, vip, client}} {
				sent = nil
				fragments := sctpFragments(c.src, c.dst, uint32(i+1), payload)
				for n, p := range fragments {
					if n == 0 {
						want(t, b, c.pass(p), packet.VerdictDrop, "first waits")
						continue
					}
					want(t, b, c.pass(p), c.to, "later")
					sent = append(sent, p)
				}
				if len(sent) != len(fragments) || where != c.to {
					t.Fatalf("%d of %d fragments went, the first one %v", len(sent), len(fragments), where)
				}
				src, dst, l4 := reassemble(t, sent)
				if sumIntact(t, src.Addr(), dst.Addr(), packet.ProtoSCTP, l4); src != c.as || dst != c.at || len(l4) != 12+payload {
					t.Fatalf("%v -> %v with %d bytes", src, dst, len(l4))
				}
				if whole := l4ports(packet.ProtoSCTP, 0, 0, 0, payload); !bytes.Equal(l4[12:], whole[12:]) {
					t.Fatal("other bytes")
				}
			}
		}
		if n := b.Stats().Dropped["fragment"]; n != 0 {
			t.Fatalf("%d dropped", n)
		}
	})
}

// A first fragment is held only if its ports change and a send function is set. The oldest held fragment is dropped when
// too many wait.
func TestFragment_SCTPFirstFragments_HeldInBounds(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		b := newBalancer(t, 256, tableOf(service("web", packet.ProtoSCTP, a.vip, 80, 80, a.far)))
		want(t, b, b.Outbound(sctpFragments(at(a.pod, 4000), at(a.vip, 80), 1, 600)[0]), packet.VerdictPeer, "the same ports")
		b.Set(tableOf(service("web", packet.ProtoSCTP, a.vip, 80, 8080, a.far)))
		want(t, b, b.Outbound(sctpFragments(at(a.pod, 4001), at(a.vip, 80), 2, 600)[0]), packet.VerdictDrop, "no send function")
		sent := 0
		b.SendBy(func([]byte, packet.Verdict) { sent++ })
		before := b.Stats().Dropped["fragment"]
		for i := range uint32(100) {
			want(t, b, b.Outbound(sctpFragments(at(a.pod, 4002), at(a.vip, 80), 100+i, 600)[0]), packet.VerdictDrop, "first without a last")
		}
		if n := b.Stats().Dropped["fragment"] - before; n != 100-uint64(len(b.sctpHeads.list)) {
			t.Fatalf("%d were dropped", n)
		}
		b.clock.Add(fragmentTimeout + 1)
		late := sctpFragments(at(a.pod, 4002), at(a.vip, 80), 199, 600)[1]
		if want(t, b, b.Outbound(late), packet.VerdictDrop, "much later"); sent != 0 {
			t.Fatal("an old one went")
		}
	})
}
