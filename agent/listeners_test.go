package agent

import (
	"bufio"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
)

func TestSteeredPorts(t *testing.T) {
	tcp := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:3AAD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 00000000:7530 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 00000000:7531 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 00000000a1b2c3d4 100 0 0 10 0
   4: 0100007F:3AAE 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   garbage
`
	own := map[uint64]bool{77: true}
	if got := steeredPorts(bufio.NewScanner(strings.NewReader(tcp)), listening, own); !slices.Equal(got, []uint16{15021, 30000}) {
		t.Errorf("listeners %v, expected 15021 and 30000", got)
	}
	udp := strings.NewReplacer(" 0A ", " 07 ").Replace(tcp)
	if got := steeredPorts(bufio.NewScanner(strings.NewReader(udp)), "07", own); !slices.Equal(got, []uint16{15021, 30000}) {
		t.Errorf("UDP sockets %v, expected 15021 and 30000", got)
	}
}

func TestSparedPorts(t *testing.T) {
	if got := spared([]uint16{80, 13000, 15021, 29999, 30000}); !slices.Equal(got, []uint16{13000, 15021, 29999}) {
		t.Errorf("spared %v", got)
	}
	var many []uint16
	for n := range uint16(100) {
		many = append(many, 14000+2*n)
	}
	if got := spared(many); len(got) != maxSpared {
		t.Errorf("%d ports spared, expected at most %d", len(got), maxSpared)
	}
	for _, tc := range []struct {
		ports []uint16
		want  []hostnet.Ports
	}{
		{nil, []hostnet.Ports{{Lo: 10, Hi: 20}}},
		{[]uint16{15}, []hostnet.Ports{{Lo: 10, Hi: 14}, {Lo: 16, Hi: 20}}},
		{[]uint16{10, 11, 20}, []hostnet.Ports{{Lo: 12, Hi: 19}}},
		{[]uint16{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, nil},
	} {
		if got := without([2]uint16{10, 20}, tc.ports); !slices.Equal(got, tc.want) {
			t.Errorf("10 to 20 without %v: %v, expected %v", tc.ports, got, tc.want)
		}
	}
}
