package servicelb

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// peerReset is the RST to the end of a torn-down connection that has not sent the packet at which it was torn down. The
// sender of that packet gets a RST as its answer; without a peerReset the other end would wait until it sends.
type peerReset struct {
	src, dst netip.AddrPort
	seq      uint32
}

// resetOtherEnd makes the RST to the other end of a flow that a packet has ended. There is none if the connection was never
// answered, or if the receiver would not accept it. A receiver accepts the sequence number that it expects next: the
// later of its last acknowledgement and the packet's own sequence number.
func (v *view) resetOtherEnd(e *conntrack.Locked, p *packet.Packet) (r peerReset) {
	other := e.Dir.Opposite()
	if e.Proto() != packet.ProtoTCP || !p.HasL4 || p.TCPFlags&packet.SYN != 0 || e.Status().HalfOpen() ||
		e.Dir == conntrack.Original && !v.hasSource(e.Entry) {
		return r
	}
	to := e.Tuple(other)
	r.src, r.dst = to.Destination(), to.Source()
	r.seq = binary.BigEndian.Uint32(p.Buf[p.L4+4:])
	if ack := e.Ack(other); ack != 0 && int32(ack-r.seq) > 0 {
		r.seq = ack
	}
	return r
}

// resetBothEnds makes the RSTs to both ends of a connection that is torn down without a packet. The sequence number is the
// receiver's last acknowledgement. The entry is locked.
func resetBothEnds(e *conntrack.Entry) (list []peerReset) {
	if e.Proto() != packet.ProtoTCP || e.Status().HalfOpen() {
		return nil
	}
	for _, d := range [...]conntrack.Direction{conntrack.Original, conntrack.Reply} {
		if ack := e.Ack(d); ack != 0 {
			to := e.Tuple(d)
			list = append(list, peerReset{to.Destination(), to.Source(), ack})
		}
	}
	return list
}

// SendBy sets the function that sends the balancer's own packets: RSTs, and first fragments of SCTP that were held. The
// verdict is VerdictPeer or VerdictReflect. Without it none is sent.
func (b *Balancer) SendBy(send func(pkt []byte, to packet.Verdict)) { b.send.Store(&send) }

func (b *Balancer) sendReset(v *view, r peerReset) {
	send := b.send.Load()
	if send == nil || !r.dst.IsValid() {
		return
	}
	buf := answerBuffers.Get().(*[packet.MaxAnswer]byte)
	defer answerBuffers.Put(buf)
	(*send)(packet.AppendRST(buf[:0], r.src, r.dst, r.seq), v.verdictFor(r.dst.Addr()))
}
