package hostio

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

func TestRedirectedPorts_ProcNet_FindsHostSockets(t *testing.T) {
	tcp := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:3AAD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 00000000:7530 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 00000000:7531 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 00000000a1b2c3d4 100 0 0 10 0
   4: 0100007F:3AAE 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   garbage
`
	own := map[uint64]bool{77: true}
	if got := redirectedPorts(bufio.NewScanner(strings.NewReader(tcp)), tcpListen, own); !slices.Equal(got, []uint16{15021, 30000}) {
		t.Errorf("listeners %v, expected 15021 and 30000", got)
	}
	udp := strings.NewReplacer(" 0A ", " 07 ").Replace(tcp)
	if got := redirectedPorts(bufio.NewScanner(strings.NewReader(udp)), udpBound, own); !slices.Equal(got, []uint16{15021, 30000}) {
		t.Errorf("UDP sockets %v, expected 15021 and 30000", got)
	}
}
