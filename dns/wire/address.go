package wire

import "net/netip"

// ParseIPv4 parses a dotted IPv4 address without allocating. It refuses leading zeros, as netip does: some programs read them
// as octal.
func ParseIPv4(b []byte) (netip.Addr, bool) {
	var a [4]byte
	n, start := 0, 0
	for i := 0; i <= len(b); i++ {
		if i < len(b) && b[i] != '.' {
			continue
		}
		v, ok := decimal(b[start:i])
		if !ok || n == 4 {
			return netip.Addr{}, false
		}
		a[n] = v
		n, start = n+1, i+1
	}
	return netip.AddrFrom4(a), n == 4
}

// ParseDashedIPv6 parses an IPv6 address whose colons are written as dashes, without allocating.
func ParseDashedIPv6(b []byte) (netip.Addr, bool) {
	var head, tail [8]uint16
	nh, nt, gap := 0, 0, false
	for i := 0; i < len(b); {
		if b[i] == '-' {
			switch {
			case i+1 < len(b) && b[i+1] == '-':
				if gap {
					return netip.Addr{}, false
				}
				gap = true
				if i += 2; i < len(b) && b[i] == '-' {
					return netip.Addr{}, false
				}
				continue
			case i == 0 || i == len(b)-1:
				return netip.Addr{}, false
			}
			i++
		}
		v, used := hex16(b[i:])
		if used == 0 || nh+nt == 8 {
			return netip.Addr{}, false
		}
		i += used
		if gap {
			tail[nt] = v
			nt++
		} else {
			head[nh] = v
			nh++
		}
		if i < len(b) && b[i] != '-' {
			return netip.Addr{}, false
		}
	}
	if gap == (nh+nt == 8) {
		return netip.Addr{}, false
	}
	copy(head[8-nt:], tail[:nt])
	var a [16]byte
	for i, v := range head {
		a[2*i], a[2*i+1] = byte(v>>8), byte(v)
	}
	return netip.AddrFrom16(a), true
}

// hex16 reads up to four hexadecimal digits.
func hex16(b []byte) (v uint16, used int) {
	for used < len(b) && used < 4 {
		d, ok := nibble(b[used])
		if !ok {
			break
		}
		v, used = v<<4|uint16(d), used+1
	}
	return v, used
}
