package tunnel

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/testutil"
)

// Another process has the UDP port and the socket of wg(8). The tunnel runs without them, with its peers set, and opens both when they
// are free: the port of the configuration and no other one.
func TestTunnel_PortTaken_OpensItLater(t *testing.T) {
	noLeaks(t)
	other, err := net.ListenPacket("udp4", "0.0.0.0:17821")
	must(t, err)
	defer other.Close()
	sockets, dir := listen.New(listen.Config{}), t.TempDir()
	defer sockets.Close()
	wg, err := net.Listen("unix", filepath.Join(dir, "test1.sock"))
	must(t, err)
	defer wg.Close()
	a := startNode(t, 1, nil, 17821, nil, func(c *Config, _ *parts) { c.Sockets, c.UAPIDir = sockets, dir })
	b := startNode(t, 2, nil, 17822, nil)
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, "127.0.0.1:17822")}))
	must(t, b.SetPeers([]Peer{a.peer("a", ipsA, "127.0.0.1:17821")}))
	problems := fmt.Sprint(sockets.Problems())
	for _, want := range []string{"tunnel: ", ":17821", "address already in use", "socket of wg(8): ", "another process answers"} {
		if !strings.Contains(problems, want) {
			t.Errorf("problems %s, expected %q", problems, want)
		}
	}
	other.Close()
	wg.Close()
	testutil.EventuallyTrue(t, "no problem", func() bool { return len(sockets.Problems()) == 0 })
	settle(t, a, b)
	crossing(t, a, b)
}

// The socket of wg(8) cannot be made at all: the tunnel runs without it, and the problem is reported.
func TestTunnel_UAPIDirectoryMissing_RunsAndReports(t *testing.T) {
	noLeaks(t)
	sockets := listen.New(listen.Config{})
	defer sockets.Close()
	startNode(t, 1, newNetwork().bind("192.0.2.1:1"), 1, nil, func(c *Config, _ *parts) { c.Sockets, c.UAPIDir = sockets, "/proc/nowhere" })
	if problems := fmt.Sprint(sockets.Problems()); !strings.Contains(problems, "socket of wg(8): ") {
		t.Errorf("problems %s", problems)
	}
}

// A tunnel that follows another one in the same process finds its port taken by no other process, also between the two.
func TestTunnel_Restarted_PortStaysTaken(t *testing.T) {
	noLeaks(t)
	sockets := listen.New(listen.Config{})
	defer sockets.Close()
	for range 2 {
		n := startNode(t, 1, nil, 17823, nil, func(c *Config, _ *parts) { c.Sockets = sockets })
		n.stop()
		if c, err := net.ListenPacket("udp4", "0.0.0.0:17823"); err == nil {
			c.Close()
			t.Fatal("the port is free between two tunnels")
		}
	}
}
