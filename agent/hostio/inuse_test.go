package hostio

import (
	"bufio"
	"net/netip"
	"strings"
	"testing"
)

func TestSocketAt_AddressesAndStates_FindsConflicts(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0
   3: 0101A8C0:01BB 0201A8C0:C000 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0 100 0 0 10 0
`
	const udp6 = `  sl local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
   1: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 21 2 0 0
   2: B80D0120000000000000000001000000:14EA 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 22 2 0 0
`
	node := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("2001:db8::1")}
	all := append(node, netip.MustParseAddr("127.0.0.1"))
	for _, c := range []struct {
		name, text, state string
		port              uint16
		addrs             []netip.Addr
		want              string // "" for none
	}{
		{"wildcard listener", tcp, tcpListen, 22, node, "0.0.0.0:22"},
		{"loopback listener, node address", tcp, tcpListen, 8080, node, ""},
		{"loopback listener, every address", tcp, tcpListen, 8080, all, "127.0.0.1:8080"},
		{"own listener", tcp, tcpListen, 80, node, ""},
		{"connection", tcp, tcpListen, 443, node, ""},
		{"UDP wildcard, IPv6", udp6, udpBound, 5353, node, "[::]:5353"},
		{"UDP address, IPv6", udp6, udpBound, 5354, node, "[2001:db8::1]:5354"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, found := socketAt(bufio.NewScanner(strings.NewReader(c.text)), c.state, c.port, c.addrs, map[uint64]bool{13: true})
			if found != (c.want != "") || found && at.String() != c.want {
				t.Errorf("%v %t, expected %q", at, found, c.want)
			}
		})
	}
}
