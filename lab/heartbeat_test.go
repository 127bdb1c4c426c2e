package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// forgedHeartbeats are claims of an address with the highest epoch: in the form without authentication, and in an envelope with
// a message authentication code that the forger has guessed.
func forgedHeartbeats(claim netip.Addr) (out [][]byte) {
	body := append([]byte("WRNB\x01\x00\x01\x01\x01\x00\x00\x00"), make([]byte, 20)...)
	binary.BigEndian.PutUint32(body[12:], 1)
	binary.BigEndian.PutUint64(body[16:], 1<<62)
	binary.BigEndian.PutUint64(body[24:], 1<<62)
	lan, a := netip.MustParseAddr("192.168.77.0").As16(), claim.As16()
	body = append(append(body, 2, 0, 0, 0, 0, 1, 120), lan[:]...)
	body = binary.BigEndian.AppendUint64(append(body, a[:]...), 1<<64-1)
	envelope := append([]byte("WRNE\x01\x00\x00\x00"), make([]byte, 32)...)
	binary.BigEndian.PutUint64(envelope[8:], 1<<62)
	binary.BigEndian.PutUint64(envelope[16:], 1<<62)
	return [][]byte{body, append(append(envelope, body...), make([]byte, 32)...)}
}

// sendForged sends datagrams from a machine's namespace with a source address, port 9552 to port 9552. A raw socket needs no port.
func sendForged(t *testing.T, l *Lab, machine string, src, dst netip.Addr, list [][]byte) {
	t.Helper()
	pid, err := l.hold(machine)
	if err == nil {
		err = inside(pid, func() error {
			c, err := net.DialIP("ip4:17", &net.IPAddr{IP: src.AsSlice()}, &net.IPAddr{IP: dst.AsSlice()})
			if err != nil {
				return err
			}
			defer c.Close()
			for _, body := range list {
				d := binary.BigEndian.AppendUint16(nil, 9552)
				d = binary.BigEndian.AppendUint16(d, 9552)
				d = binary.BigEndian.AppendUint16(d, uint16(8+len(body)))
				if _, err := c.Write(append(append(d, 0, 0), body...)); err != nil { // no checksum (RFC 768)
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		t.Errorf("forged heartbeats from %s: %v", machine, err)
	}
}

// A node that announces an address continues, with its epoch, while a machine of the LAN and a process of another node send
// heartbeats that claim the address.
func TestLoadBalancer_ForgedHeartbeats_ChangeNothing(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3})
	labelled(t, l, "n1", "web", "app=web")
	applyYAML(t, l, lanPool+"---"+web("web", "app: web", "  type: LoadBalancer"))
	vip := lbAddrs(t, l, "web", 1)[0]
	nodes := l.NodeNames()
	who := owner(t, l, vip, nodes...)
	epoch := func() uint64 {
		for _, s := range lbState(t, l, who).Services {
			for _, x := range s.Addresses {
				if x.Address == vip {
					return x.Epoch
				}
			}
		}
		return 0
	}
	before := epoch()
	podNet := map[string]netip.Addr{}
	for _, n := range nodes {
		st, err := l.Status(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		podNet[n] = st.PodCIDRs[0].Addr().Next()
	}
	thief := nodes[0]
	if thief == who {
		thief = nodes[1]
	}
	via := l.Spec.underlayAddrs(who)[0].Addr()
	sh(t, l, "etcd1", fmt.Sprintf("ip addr add %s/32 dev lo; ip route add %s/32 via %s", podNet[thief], podNet[who], via))
	for range 20 { // 2 s: four times DeadInterval
		sendForged(t, l, "etcd1", podNet[thief], podNet[who], forgedHeartbeats(vip))
		sendForged(t, l, thief, podNet[thief], podNet[who], forgedHeartbeats(vip))
		time.Sleep(100 * time.Millisecond)
		if now := owner(t, l, vip, who); now != who {
			t.Fatalf("%s announces the address, before it was %s", now, who)
		}
	}
	testutil.Eventually(t, "one announcer", func() error {
		if now := owner(t, l, vip, nodes...); now != who || epoch() != before {
			return fmt.Errorf("%s announces the address with epoch %d, before it was %s with %d", now, epoch(), who, before)
		}
		return nil
	})
}
