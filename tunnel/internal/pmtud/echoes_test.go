package pmtud

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// A node or Pod that has seen or guessed the identifier replies in place of the node that is probed.
func TestEchoes_ReplyFromAnotherSource_NotAnAnswer(t *testing.T) {
	self, probed, other := netip.MustParseAddr("fd42::1"), netip.MustParseAddr("fd42:0:0:1::"), netip.MustParseAddr("fd42:0:0:1::5")
	var e Echoes
	id, seq, answer := e.begin(probed)
	reply := func(from netip.Addr) *packet.Packet {
		b := packet.AppendEcho(nil, from, self, id, seq, 100)
		b[40] = 129 // echo reply
		p := new(packet.Packet)
		if f := p.Parse(b); f != packet.OK {
			t.Fatal(f)
		}
		return p
	}
	if e.Answered(reply(other)) || len(answer) != 0 {
		t.Error("a reply from an address that was not probed is taken for the answer")
	}
	if !e.Answered(reply(probed)) || len(answer) != 1 {
		t.Error("the reply of the probed address is not the answer")
	}
	e.end(seq)
	if !e.Answered(reply(probed)) {
		t.Error("a late reply is passed on")
	}
}
