package forward

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

	"github.com/warrennet/warren/dns/wire"
)

var errMismatch = errors.New("the answer does not match the question")

// exchange sends one query to one upstream and returns its answer. Over UDP first; over TCP when the answer is truncated or
// repeats the name in another case; over TLS only when so configured. An upstream that answers FORMERR to EDNS0 is queried
// without it from then on.
func (up *upstream) exchange(ctx context.Context, k cacheKey) (*Message, error) {
	edns := !up.noEDNS.Load()
	m, err := up.queryOnce(ctx, newQuestion(k, edns))
	if err == nil && m.Rcode == dns.RcodeFormatError && edns {
		up.noEDNS.Store(true)
		m, err = up.queryOnce(ctx, newQuestion(k, false))
	}
	if err != nil {
		return nil, fmt.Errorf("query upstream %s: %w", up.name, err)
	}
	sanitize(m, k)
	return NewMessage(m, k.name)
}

func (up *upstream) queryOnce(ctx context.Context, q []byte) (*dns.Msg, error) {
	var raw []byte
	var err error
	if up.tls != nil {
		raw, err = up.overTLS(ctx, q)
	} else if raw, err = up.overUDP(ctx, q); err == nil && (raw == nil || raw[2]&wire.FlagTC != 0) {
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

// newQuestion writes a query with a random ID and a random case of the name (0x20). The answer must repeat both.
func newQuestion(k cacheKey, edns bool) []byte {
	var r [2 + 255]byte
	_, _ = rand.Read(r[:2+len(k.name)])
	q := make([]byte, 0, wire.HeaderLen+len(k.name)+4+wire.OptLen)
	q = append(q, r[0], r[1], wire.FlagRD, wire.FlagAD, 0, 1, 0, 0, 0, 0, 0, 0)
	if k.flags&flagCD != 0 {
		q[3] |= wire.FlagCD
	}
	for i := range len(k.name) {
		c := k.name[i]
		if c >= 'a' && c <= 'z' && r[2+i]&1 != 0 { // length bytes are below 64
			c -= 'a' - 'A'
		}
		q = append(q, c)
	}
	q = append(q, byte(k.typ>>8), byte(k.typ), 0, wire.ClassIN)
	if edns {
		q[11] = 1
		q = append(q, 0, 0, wire.TypeOPT, wire.UDPSize>>8, wire.UDPSize&0xff, 0, 0, (k.flags&flagDO)<<7, 0, 0, 0)
	}
	return q
}

// match is how an answer compares with its query.
type match uint8

const (
	matches     match = iota
	caseDiffers       // the name differs in case only: forged, or an upstream without 0x20 support
	mismatches
)

// matchResponse compares ID, opcode and question of an answer with those of the query.
func matchResponse(q, a []byte) match {
	end := len(q)
	if q[11] != 0 {
		end -= wire.OptLen
	}
	if len(a) < end || a[0] != q[0] || a[1] != q[1] || a[2]&0xf8 != wire.FlagQR || binary.BigEndian.Uint16(a[4:]) != 1 {
		return mismatches
	}
	if bytes.Equal(a[wire.HeaderLen:end], q[wire.HeaderLen:end]) {
		return matches
	}
	for i := wire.HeaderLen; i < end-4; i++ {
		if wire.ToLower[a[i]] != wire.ToLower[q[i]] {
			return mismatches
		}
	}
	if !bytes.Equal(a[end-4:end], q[end-4:end]) {
		return mismatches
	}
	return caseDiffers
}

// overUDP queries from a socket of its own, whose port the kernel chose at random, connected to the upstream. Datagrams
// that do not match are ignored, because the true answer may follow. A nil answer without an error means: use TCP.
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

// overTLS uses an idle connection of an earlier query, or a new one when the upstream has closed that.
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

// stream queries over a connection. An attacker off the path cannot forge an answer there, so a name in another case is
// accepted.
func (up *upstream) stream(ctx context.Context, c net.Conn, q []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := wire.WriteFrame(c, q); err != nil {
		return nil, err
	}
	a, err := wire.ReadFrame(c, nil)
	if err != nil {
		return nil, err
	}
	if matchResponse(q, a) == mismatches {
		up.health.recordMismatch()
		return nil, errMismatch
	}
	return a, nil
}
