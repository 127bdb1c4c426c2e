package tunnel

import (
	"bufio"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A node with several addresses answers from the address that a peer's datagram was sent to: firewalls and NAT on the path would drop
// other answers. When that address is removed, the peers use the next one.
func TestTunnel_SeveralUnderlayAddresses_AnswersFromTheCalledOne(t *testing.T) {
	needRoot(t)
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay6=%v", six), func(t *testing.T) {
			a, b, first, _ := underlay(t, six, 1500)
			second, bits, filter := netip.MustParseAddr("192.0.2.101"), "/24", "ip"
			if six {
				second, bits, filter = netip.MustParseAddr("2001:db8::101"), "/64", "ip6"
			}
			args := []string{"addr", "add", second.String() + bits, "dev", "u0"}
			if six {
				args = append(args, "nodad")
			}
			a.ip(t, args...)
			p := &pair{a: a, b: b}
			ends := []netip.AddrPort{netip.AddrPortFrom(second, 51820), netip.AddrPortFrom(first, 51820)}
			p.na = a.node(t, nodeConfig{Config: config(t, 1, 1420),
				Peers: []Peer{{Name: "peer", PublicKey: publicOf(t, nodeKey(2)), AllowedIPs: blocks(2)}}})
			p.nb = b.node(t, nodeConfig{Config: config(t, 2, 1420),
				Peers: []Peer{{Name: "peer", PublicKey: publicOf(t, nodeKey(1)), AllowedIPs: blocks(1), Endpoints: ends}}})
			a.overlay(t, "warren0", 1)
			b.overlay(t, "warren0", 2)

			file := filepath.Join(t.TempDir(), "pcap")
			dump, stop := b.start(t, nil, "tcpdump", "-i", "u0", "-U", "-w", file, filter+" and udp port 51820")
			errs, err := dump.StderrPipe()
			must(t, err)
			must(t, dump.Start())
			defer stop()
			for s := bufio.NewScanner(errs); s.Scan() && !strings.Contains(s.Text(), "listening"); {
			}
			p.reach(t)
			p.iperf(t, "10.42.2.1", "-n", "1M")
			must(t, dump.Process.Signal(syscall.SIGINT))
			dump.Wait()
			if wrong := sh(t, "tcpdump", "-nr", file, "src host "+first.String()); strings.Contains(wrong, "51820") {
				t.Errorf("datagrams to %s were answered from %s:\n%s", second, first, wrong)
			}
			if right := sh(t, "tcpdump", "-nr", file, "src host "+second.String()); !strings.Contains(right, "51820") {
				t.Error("the capture shows no answer")
			}

			a.ip(t, "addr", "del", second.String()+bits, "dev", "u0")
			// WireGuard drops a session after 15 seconds without an answer; the endpoint changes after five more.
			for end := time.Now().Add(time.Minute); ; {
				if _, err := b.try("busybox", "ping", "-c1", "-W1", "10.42.1.1"); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("no traffic after the address was removed")
				}
			}
		})
	}
}
