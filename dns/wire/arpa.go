package wire

import "net/netip"

const (
	arpa4 = "\x07in-addr\x04arpa\x00"
	arpa6 = "\x03ip6\x04arpa\x00"
)

// ReversePrefix parses a reverse name (in-addr.arpa, ip6.arpa). p is the prefix of its labels. whole is false when a label is
// not a number, which ends the prefix: "x.42.10.in-addr.arpa" is 10.42.0.0/16 and not whole.
func (q *Query) ReversePrefix() (p netip.Prefix, whole, ok bool) {
	switch {
	case q.InZone(arpa4, 2):
		return q.reversePrefix4()
	case q.InZone(arpa6, 2):
		return q.reversePrefix6()
	}
	return netip.Prefix{}, false, false
}

func (q *Query) reversePrefix4() (netip.Prefix, bool, bool) {
	var a [4]byte
	n := 0
	for i := q.Labels - 3; i >= 0; i-- {
		v, ok := decimal(q.Label(i)[1:])
		if n == 4 || !ok {
			return netip.PrefixFrom(netip.AddrFrom4(a), 8*n), false, true
		}
		a[n] = v
		n++
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), 8*n), true, true
}

func (q *Query) reversePrefix6() (netip.Prefix, bool, bool) {
	var a [16]byte
	n := 0
	for i := q.Labels - 3; i >= 0; i-- {
		l := q.Label(i)
		v, ok := nibble(l[1])
		if n == 32 || len(l) != 2 || !ok {
			return netip.PrefixFrom(netip.AddrFrom16(a), 4*n), false, true
		}
		a[n/2] |= v << (4 * (1 - n%2))
		n++
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 4*n), true, true
}

func decimal(b []byte) (byte, bool) {
	v := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return byte(v), len(b) > 0 && len(b) <= 3 && v < 256 && (b[0] != '0' || len(b) == 1)
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
