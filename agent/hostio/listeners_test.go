package hostio

import (
	"bufio"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/agent/plan"
)

func TestRedirectedPorts_ProcNet_FindsHostSockets(t *testing.T) {
	tcp := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:3AAD 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 00000000:7530 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 00000000:7531 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 00000000a1b2c3d4 100 0 0 10 0
   4: 0100007F:3AAE 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   garbage
`
	own := map[uint64]bool{77: true}
	want := []plan.Listener{{Port: 15021, UID: 1000, Inode: 2}, {Port: 30000, Inode: 3}}
	if got := redirectedPorts(bufio.NewScanner(strings.NewReader(tcp)), tcpListen, own); !slices.Equal(got, want) {
		t.Errorf("listeners %v, expected %v", got, want)
	}
	udp := strings.NewReplacer(" 0A ", " 07 ").Replace(tcp)
	if got := redirectedPorts(bufio.NewScanner(strings.NewReader(udp)), udpBound, own); !slices.Equal(got, want) {
		t.Errorf("UDP sockets %v, expected %v", got, want)
	}
}

// Listeners keep their order while they are there, and over a restart of the program. A port that another user takes is new.
func TestListeners_ProgramsComeAndGo_OrderKept(t *testing.T) {
	var l Listeners
	now := time.Unix(1000, 0)
	since := func(what string, want uint64, found ...plan.Listener) {
		t.Helper()
		if got := l.note(found, now); got[0].Since != want {
			t.Errorf("%s: since %d, expected %d", what, got[0].Since, want)
		}
	}
	first, second := plan.Listener{Port: 13001, UID: 1000, Inode: 1}, plan.Listener{Port: 13002, UID: 65534, Inode: 2}
	since("the first", 0, first)
	since("a second one", 1, second)
	first.Inode = 3
	now = now.Add(time.Minute)
	since("the first one after a restart", 0, first, second)
	since("another user at its port", 2, plan.Listener{Port: 13001, UID: 65534, Inode: 4})
	now = now.Add(forgetAfter + time.Second)
	since("the second one is still there", 1, second)
	since("the first one after a long time", 3, first)
	shared := l.note([]plan.Listener{{Port: 13001, UID: 65534, Inode: 1}, {Port: 13001, Inode: 9}}, now)
	if len(shared) != 1 || shared[0].UID != 0 {
		t.Errorf("a port that root and another user share: %v, expected root's", shared)
	}
}
