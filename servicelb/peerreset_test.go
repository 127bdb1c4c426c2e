package servicelb

import (
	"encoding/binary"
	"testing"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// When a Service is deleted, the end that sends first gets an answer, and the other end gets a RST that it accepts: from
// the address that it uses, with the sequence number that it expects.
func TestPeerReset_ServiceDeleted_OtherEndReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		for _, c := range []struct {
			what, client, backend string
			dir                   conntrack.Direction
			to                    packet.Verdict // of the RST to the other end
		}{
			{"the client of a remote backend sends", a.pod, a.far, original, packet.VerdictPeer},
			{"the client of a local backend sends", ip(a.pod).Next().String(), a.pod, original, packet.VerdictReflect},
			{"a remote backend sends", a.pod, a.far, reply, packet.VerdictReflect},
			{"the backend of a hairpin sends", a.pod, a.pod, reply, packet.VerdictReflect},
		} {
			t.Run(c.what, func(t *testing.T) {
				b := newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, c.backend)))
				var sent []*packet.Packet
				var to []packet.Verdict
				b.SendBy(func(pkt []byte, v packet.Verdict) {
					p := new(packet.Packet)
					p.Parse(append([]byte(nil), pkt...))
					sent, to = append(sent, p), append(to, v)
				})
				client, vip := at(c.client, 4000), at(a.vip, 80)
				p := mk(packet.ProtoTCP, client, vip, packet.SYN)
				b.Outbound(p)
				seen, back := p.Source(), p.Destination()
				in := b.Outbound
				if c.backend == a.far {
					in = b.Inbound
				}
				in(mk(packet.ProtoTCP, back, seen, packet.SYN|packet.ACK))
				b.Outbound(mk(packet.ProtoTCP, client, vip, packet.ACK))
				b.Set(Build(testSelf(), snap(nil, nil)))
				last := mk(packet.ProtoTCP, client, vip, packet.ACK)
				from, dst := seen, back
				if c.dir == reply {
					last, from, dst = mk(packet.ProtoTCP, back, seen, packet.ACK), vip, client
				} else {
					in = b.Outbound
				}
				want(t, b, in(last), packet.VerdictReply, c.what)
				if len(sent) != 1 || to[0] != c.to || sent[0].Source() != from || sent[0].Destination() != dst ||
					sent[0].TCPFlags != packet.RST ||
					binary.BigEndian.Uint32(sent[0].Buf[sent[0].L4+4:]) != 1000 {
					t.Fatalf("%s: %v %+v", c.what, to, sent)
				}
				intact(t, sent[0])
			})
		}
	})
}

// No RST is sent about a connection that was never answered, nor from an address that the node no longer has.
func TestPeerReset_NeverAnsweredOrAddressRemoved_NotSent(t *testing.T) {
	a := families["4"]
	self := testSelf()
	b := newBalancer(t, 64, Build(self, snap(nil, nil)))
	b.SendBy(func(pkt []byte, v packet.Verdict) { t.Errorf("%x was sent to %v", pkt, v) })
	open := func(port uint16, answer bool) {
		p := mk(packet.ProtoTCP, at(a.pod, port), at(a.endpoint, 443), packet.SYN)
		want(t, b, b.Outbound(p), packet.VerdictReflect, "SYN")
		if answer {
			b.Outbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.SYN|packet.ACK))
			b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.endpoint, 443), packet.ACK))
		}
	}
	open(4000, true)
	open(4001, false)
	self.Addrs = self.Addrs[1:]
	b.Set(Build(self, snap(nil, nil)))
	for _, port := range []uint16{4000, 4001} {
		want(t, b, b.Outbound(mk(packet.ProtoTCP, at(a.pod, port), at(a.endpoint, 443), packet.ACK)), packet.VerdictReply, "segment")
	}
}
