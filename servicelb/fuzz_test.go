package servicelb

import (
	"encoding/binary"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// Whatever the bytes are: nothing panics, no correct checksum becomes wrong, no Pod's own address leaves, and nothing is
// sent to a Service address untranslated.
func FuzzBalancer_HostilePackets_NoLeak(f *testing.F) {
	for _, a := range families {
		for _, p := range []*packet.Packet{
			mk(packet.ProtoTCP, at(a.pod, 4000), at(a.vip, 80), packet.SYN), mk(packet.ProtoUDP, at(a.pod, 4000), at(a.vip, 80), 0),
			mk(packet.ProtoUDP, at(a.pod, 4000), at(a.endpoint, 80), 0), mk(packet.ProtoSCTP, at(a.outside, 4000), at(a.vip, 80), 0),
			mk(packet.ProtoTCP, at(a.vip, 80), at(a.vip, 80), packet.SYN), mk(packet.ProtoTCP, at(a.snat, 80), at(a.snat, 80), packet.SYN),
			mk(packet.ProtoUDP, at(a.far, 8080), at(a.pod, 4000), 0), echoOf(ip(a.pod), ip(a.vip), true, 1), echoOf(ip(a.pod),
				ip(a.endpoint),
				true, 1),
			fragmentOf(at(a.pod, 4000), at(a.vip, 80), 9, true), fragmentOf(at(a.pod, 4000), at(a.vip, 80), 9, false),
			errorAbout(mk(packet.ProtoUDP, at(a.pod, 4000), at(a.far, 8080), 0), ip(a.far)), errorAbout(mk(packet.ProtoTCP, at(a.pod, 4000),
				at(a.far, 8080), 0), ip(a.far)),
		} {
			f.Add(p.Buf, false, uint8(0))
			f.Add(p.Buf, true, uint8(packet.NeedsCsum))
		}
	}
	tab := func() *Table {
		s := snap(nil, nil)
		for _, a := range families {
			for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
				svc, parts := service(string(rune('a'+proto%26))+a.vip[:2], proto, a.vip, 80, 8080, a.far)
				s.Services, s.Slices = append(s.Services, svc), append(s.Slices, parts...)
			}
		}
		return Build(testSelf(), s)
	}()
	f.Fuzz(func(t *testing.T, raw []byte, inbound bool, flags uint8) {
		b := newBalancer(t, 64, tab)
		for _, a := range families { // flows that hostile packets may hit
			for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
				b.Outbound(mk(proto, at(a.pod, 4000), at(a.vip, 80), packet.SYN))
			}
			b.Outbound(fragmentOf(at(a.pod, 4000), at(a.vip, 80), 9, true))
		}
		p := new(packet.Packet)
		buf := append(make([]byte, 0, 2048+len(raw)), raw...)
		if p.Parse(buf) != packet.OK {
			return
		}
		if flags&packet.NeedsCsum != 0 && len(raw) > 4 {
			p.Vnet.Flags = packet.NeedsCsum
			p.Vnet.CsumStart, p.Vnet.CsumOffset = uint16(p.L4), binary.BigEndian.Uint16(raw[2:])&31
			if p.VnetFault() != packet.OK {
				return
			}
		}
		if p.Version == 4 && slowSum(p.Buf[:int(p.Buf[0]&15)*4]) != 0xffff {
			return // the kernel lets none of these in
		}
		was := !p.Fragment() && p.Vnet.Flags == 0 && p.ChecksumOK()
		v := b.Outbound
		if inbound {
			v = b.Inbound
		}
		switch verdict := v(p); verdict {
		case packet.VerdictDrop:
		case packet.VerdictReply:
			sound(t, p)
		default:
			if (&view{Table: tab}).leavesCluster(p) || tab.IsServiceAddr(p.Dst) {
				t.Fatalf("%v: %v -> %v", verdict, p.Source(), p.Destination())
			}
			if was && !p.ChecksumOK() {
				t.Fatalf("the checksum was right: %x", p.Buf)
			}
		}
		b.FromHost(p)
		b.sound(t)
	})
}
