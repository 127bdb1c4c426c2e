package hostnet

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The kubelet's firewall drops packets to 127.0.0.1 from another address, unless connection tracking expected the connection.
func TestExpectations_KubeletFirewall_PassLocalPorts(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		sh(t, `ip link set lo up; ip addr add 192.0.2.7/32 dev lo
iptables -A OUTPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
iptables -A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		from := netip.MustParseAddr("192.0.2.7").AsSlice()
		tcp := func() error { // sockets are opened in the thread's namespace only without a Dialer's helper goroutines
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 300 * time.Millisecond}
			c, err := d.Dial("tcp4", l.Addr().String())
			if err == nil {
				err = c.Close()
			}
			return err
		}
		udp := func() error {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: from}, u.LocalAddr().(*net.UDPAddr))
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			buf := make([]byte, 1)
			if err := u.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				return err
			}
			_, _, err = u.ReadFrom(buf)
			return err
		}
		if tcp() == nil || udp() == nil {
			t.Fatal("the firewall rule drops nothing: the test proves nothing")
		}
		log := slog.New(slog.NewTextHandler(io.Discard, nil))
		var e expectations
		e.set([]LocalPort{{6, port}, {17, port}, {132, port}}, log)
		for i := range 3 {
			if err := tcp(); err != nil {
				t.Errorf("TCP %d: %v", i, err)
			}
			if err := udp(); err != nil {
				t.Errorf("UDP %d: %v", i, err)
			}
		}
		// A restarted agent renews the expectations of the previous one, and removes those that are not wanted.
		var next expectations
		next.set([]LocalPort{{6, port}, {17, port}}, log)
		if next.logged {
			t.Error("a second agent cannot renew the expectations")
		}
		if err := tcp(); err != nil {
			t.Errorf("after a new agent: %v", err)
		}
		next.set(nil, log)
		if tcp() == nil || udp() == nil {
			t.Error("the port is still reachable from other addresses after its removal")
		}
		if out := sh(t, "conntrack -L expect 2>/dev/null; true"); strings.Contains(out, fmt.Sprint(port)) {
			t.Errorf("left behind: %s", out)
		}
	})
}
