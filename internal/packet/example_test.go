package packet_test

import (
	"fmt"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// An echo request gets another destination; the checksums of the rewritten packet are valid.
func ExamplePacket_SetDestination() {
	echo := packet.AppendEcho(nil, netip.MustParseAddr("10.42.0.9"), netip.MustParseAddr("10.43.0.1"), 1, 1, 64)
	var p packet.Packet
	if fault := p.Parse(echo); fault != packet.OK {
		fmt.Println("invalid packet:", fault)
		return
	}
	p.SetDestination(netip.MustParseAddrPort("10.42.3.7:0"))
	fmt.Println(p.Src, "to", p.Dst, "checksum valid:", p.ChecksumOK())
	// Output: 10.42.0.9 to 10.42.3.7 checksum valid: true
}

// A hook answers a packet: it replaces it by an ICMP error and returns VerdictReply.
func ExamplePacket_Become() {
	buf := make([]byte, 0, packet.MaxAnswer)
	buf = packet.AppendRST(buf, netip.MustParseAddrPort("10.42.0.9:40000"), netip.MustParseAddrPort("10.43.0.1:80"), 1)
	var p packet.Packet
	p.Parse(buf)
	if p.Become(p.AppendUnreachable(nil, netip.MustParseAddr("10.43.0.1"), packet.NoPort)) {
		fmt.Println(p.Src, "to", p.Dst, "ICMP type", p.ICMPType, "code", p.ICMPCode)
	}
	// Output: 10.43.0.1 to 10.42.0.9 ICMP type 3 code 3
}
