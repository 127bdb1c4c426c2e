package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Ping sends one echo request whose IP packet has size bytes and must not be fragmented, and waits for the answer until
// ctx ends (RFC 792, RFC 4443).
func Ping(ctx context.Context, from, to netip.Addr, size int) error {
	network, proto, header := "ip4:icmp", 1, 20
	var request, answer icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, proto, header = "ip6:ipv6-icmp", 58, 40
		request, answer = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	pc, err := net.ListenPacket(network, from.String())
	if err != nil {
		return err
	}
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { _ = pc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := dontFragment(pc.(*net.IPConn), to.Is6()); err != nil {
		return err
	}
	id := os.Getpid() & 0xffff
	seq := int(time.Now().UnixNano() & 0xffff)
	data := make([]byte, max(size-header-8, 8))
	binary.BigEndian.PutUint64(data, uint64(time.Now().UnixNano()))
	raw, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: seq, Data: data}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := pc.WriteTo(raw, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	buf := make([]byte, 65535)
	for {
		n, _, err := pc.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("no answer")
		}
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != answer {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && e.Seq == seq && len(e.Data) == len(data) {
			return nil
		}
	}
}

func dontFragment(c *net.IPConn, v6 bool) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		if v6 {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
			return
		}
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	})
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("forbid fragments: %w", err)
	}
	return nil
}
