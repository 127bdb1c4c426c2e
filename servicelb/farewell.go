package servicelb

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// farewell is the RST for the end of a connection that did not send the packet by which its flow ended. That one gets its
// answer; this one might wait for ever.
type farewell struct {
	src, dst netip.AddrPort
	seq      uint32
}

// otherEnd makes the farewell of a flow that a packet of one way has ended; none if there is nobody to believe it. What the
// receiver expects next is what it has acknowledged last, or what the packet begins with, whichever is later. The entry is
// locked.
func (v *view) otherEnd(e *entry, way int, p *packet.Packet) (f farewell) {
	if e.proto != packet.ProtoTCP || !p.HasL4 || p.TCPFlags&packet.SYN != 0 || halfOpen(e.status.Load()) || way == orig && !v.speaksAs(e) {
		return f
	}
	f.src, f.dst = e.way[1-way].destination(), e.way[1-way].source()
	f.seq = binary.BigEndian.Uint32(p.Buf[p.L4+4:])
	if known := e.acks[1-way].Load(); known != 0 && int32(known-f.seq) > 0 {
		f.seq = known
	}
	return f
}

// bothEnds makes the farewells of a connection that has ended before anybody sent a packet: what each end expects next is what it has
// acknowledged last. The entry is locked.
func (e *entry) bothEnds() (list []farewell) {
	if e.proto != packet.ProtoTCP || halfOpen(e.status.Load()) {
		return nil
	}
	for way := range e.way {
		if seq := e.acks[way].Load(); seq != 0 {
			list = append(list, farewell{e.way[way].destination(), e.way[way].source(), seq})
		}
	}
	return list
}

// speaksAs reports whether this node still has the address that the backend knows the client by.
func (v *view) speaksAs(e *entry) bool {
	source := e.way[reply].destination().Addr()
	return (e.flags&flagSNAT == 0 || source == v.self.snat(source.Is4())) && (e.flags&flagNodeSource == 0 || v.local[source])
}

// SendBy has the balancer send packets of its own: RSTs to the ends of connections that are over. VerdictPeer and VerdictReflect say
// where to. Without it there are none.
func (b *Balancer) SendBy(send func(pkt []byte, to packet.Verdict)) { b.sender.Store(&send) }

func (b *Balancer) tell(v *view, f farewell) {
	send := b.sender.Load()
	if send == nil || !f.dst.IsValid() {
		return
	}
	room := rooms.Get().(*[packet.MaxAnswer]byte)
	defer rooms.Put(room)
	(*send)(packet.AppendRST(room[:0], f.src, f.dst, f.seq), v.toward(f.dst.Addr()))
}
