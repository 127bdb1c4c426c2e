package hostio

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/model"
	"go.uber.org/goleak"
)

func TestLoopback6_ClientsOfTCPAndUDP_ReachTarget(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(c) // until the client's half is closed
			_, _ = c.Write(append([]byte("got "), all...))
			c.Close()
		}
	}()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(server.Addr().String())))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort(append([]byte("got "), buf[:n]...), from)
		}
	}()
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	to := netip.MustParseAddr("127.0.0.1")
	r := NewLoopback6(slog.New(slog.DiscardHandler))
	if err := r.Set(map[plan.Relay]bool{{Protocol: model.TCP, Port: port, To: to}: true,
		{Protocol: model.UDP, Port: port, To: to}: true}); err != nil {
		t.Error(err)
	}
	at := netip.AddrPortFrom(netip.IPv6Loopback(), port).String()

	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "got hello\n" {
		t.Errorf("TCP: %q, %v", line, err)
	}
	c.Close()
	for range 2 {
		u, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_ = u.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := u.Read(buf); string(buf[:n]) != "got hello" {
			t.Errorf("UDP: %q, %v", buf[:n], err)
		}
		u.Close()
	}
	open, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	r.Close() // ends the open connection, too
	_ = open.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection survived Close: %v", err)
	}
	if c, err := net.DialTimeout("tcp", at, time.Second); err == nil {
		c.Close()
		t.Error("still open")
	}
	server.Close()
	udp.Close()
}
