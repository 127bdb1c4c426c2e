package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

var errMismatch = errors.New("the answer does not fit the question")

// exchange asks one upstream once: UDP first, TCP when the answer is truncated or came with another spelling of the name
// than was sent, or TLS alone.
func (up *upstream) exchange(ctx context.Context, k cacheKey) (*message, error) {
	edns := !up.noEDNS.Load()
	m, err := up.queryOnce(ctx, newQuestion(k, edns))
	if err == nil && m.Rcode == dns.RcodeFormatError && edns {
		up.noEDNS.Store(true)
		m, err = up.queryOnce(ctx, newQuestion(k, false))
	}
	if err != nil {
		return nil, fmt.Errorf("ask upstream %s: %w", up.name, err)
	}
	sanitize(m, k)
	return newMessage(m, k.name)
}

func (up *upstream) queryOnce(ctx context.Context, q []byte) (*dns.Msg, error) {
	var raw []byte
	var err error
	if up.tls != nil {
		raw, err = up.overTLS(ctx, q)
	} else if raw, err = up.overUDP(ctx, q); err == nil && (raw == nil || raw[2]&flagTC != 0) {
		raw, err = up.overTCP(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil || len(m.Question) != 1 {
		return nil, errors.Join(errMismatch, err)
	}
	return m, nil
}

// newQuestion writes a query with a random id and random capitals (0x20): both must come back.
func newQuestion(k cacheKey, edns bool) []byte {
	var r [2 + 255]byte
	_, _ = rand.Read(r[:2+len(k.name)])
	q := make([]byte, 0, headerLen+len(k.name)+4+optLen)
	q = append(q, r[0], r[1], flagRD, flagAD, 0, 1, 0, 0, 0, 0, 0, 0)
	if k.flags&2 != 0 {
		q[3] |= flagCD
	}
	for i := range len(k.name) {
		c := k.name[i]
		if c >= 'a' && c <= 'z' && r[2+i]&1 != 0 { // length bytes are below 64
			c -= 'a' - 'A'
		}
		q = append(q, c)
	}
	q = append(q, byte(k.typ>>8), byte(k.typ), 0, classIN)
	if edns {
		q[11] = 1
		q = append(q, 0, 0, typeOPT, udpSize>>8, udpSize&0xff, 0, 0, k.flags<<7, 0, 0, 0)
	}
	return q
}

type match uint8

const (
	matches match = iota
	caseDiffers
	mismatches
)

// matchResponse compares an answer with the question it is for.
func matchResponse(q, a []byte) match {
	end := len(q)
	if q[11] != 0 {
		end -= optLen
	}
	if len(a) < end || a[0] != q[0] || a[1] != q[1] || a[2]&0xf8 != flagQR || binary.BigEndian.Uint16(a[4:]) != 1 {
		return mismatches
	}
	if bytes.Equal(a[headerLen:end], q[headerLen:end]) {
		return matches
	}
	for i := headerLen; i < end-4; i++ {
		if toLower[a[i]] != toLower[q[i]] {
			return mismatches
		}
	}
	if !bytes.Equal(a[end-4:end], q[end-4:end]) {
		return mismatches
	}
	return caseDiffers
}

// overUDP asks from a port of its own, chosen by the kernel at random, and takes answers from the one address only.
// Datagrams that do not fit are ignored: the true answer may be right behind. nil means: ask over TCP.
func (up *upstream) overUDP(ctx context.Context, q []byte) ([]byte, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", up.addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.Write(q); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for range 100 {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		switch matchResponse(q, buf[:n]) {
		case matches:
			return buf[:n], nil
		case caseDiffers:
			return nil, nil
		}
		up.health.recordMismatch()
	}
	return nil, errMismatch
}

func (up *upstream) overTCP(ctx context.Context, q []byte) ([]byte, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", up.addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return up.stream(ctx, c, q)
}

// overTLS uses a connection left by an earlier question, or a new one when that has gone away meanwhile.
func (up *upstream) overTLS(ctx context.Context, q []byte) ([]byte, error) {
	select {
	case c := <-up.idle:
		if a, err := up.stream(ctx, c, q); err == nil {
			up.keepIdle(c)
			return a, nil
		}
		c.Close()
	default:
	}
	c, err := (&tls.Dialer{Config: up.tls}).DialContext(ctx, "tcp", up.addr.String())
	if err != nil {
		return nil, err
	}
	a, err := up.stream(ctx, c, q)
	if err != nil {
		c.Close()
		return nil, err
	}
	up.keepIdle(c.(*tls.Conn))
	return a, nil
}

func (up *upstream) keepIdle(c *tls.Conn) {
	select {
	case up.idle <- c:
	default:
		c.Close()
	}
}

// stream asks over a connection. Nobody can forge an answer blindly here, so another spelling of the name is taken.
func (up *upstream) stream(ctx context.Context, c net.Conn, q []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeFrame(c, q); err != nil {
		return nil, err
	}
	a, err := readFrame(c, nil)
	if err != nil {
		return nil, err
	}
	if matchResponse(q, a) == mismatches {
		up.health.recordMismatch()
		return nil, errMismatch
	}
	return a, nil
}
