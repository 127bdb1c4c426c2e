package netx

import (
	"math/big"
	"net/netip"
	"testing"
)

func TestContains_SeveralRanges_OneIsEnough(t *testing.T) {
	ranges := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24"), netip.MustParsePrefix("fd42::/64")}
	for s, want := range map[string]bool{"10.42.0.255": true, "10.42.1.0": false, "fd42::1": true, "::ffff:10.42.0.1": false} {
		t.Run(s, func(t *testing.T) {
			if got := Contains(ranges, netip.MustParseAddr(s)); got != want {
				t.Errorf("%v contain %s: %v, want %v", ranges, s, got, want)
			}
		})
	}
	if Contains(nil, netip.MustParseAddr("::1")) {
		t.Error("no range contains ::1")
	}
}

func TestNthPrefix_EachLength_CountsFromTheStart(t *testing.T) {
	for _, c := range []struct {
		in   string
		bits int
		n    uint64
		want string
	}{
		{"10.42.0.0/16", 24, 0, "10.42.0.0/24"},
		{"10.42.7.7/16", 24, 255, "10.42.255.0/24"},
		{"10.42.0.0/16", 32, 65535, "10.42.255.255/32"},
		{"0.0.0.0/0", 1, 1, "128.0.0.0/1"},
		{"fd42::/48", 64, 0x1234, "fd42:0:0:1234::/64"},
		{"fd42::/48", 80, 1 << 20, "fd42:0:0:10::/80"},
		{"fd42::/16", 48, 0xffffffff, "fd42:ffff:ffff::/48"},
		{"fd42::/64", 128, 1 << 63, "fd42::8000:0:0:0/128"},
	} {
		t.Run(c.in+" "+c.want, func(t *testing.T) {
			if got := NthPrefix(netip.MustParsePrefix(c.in), c.bits, c.n); got.String() != c.want {
				t.Errorf("/%d number %d of %s is %s, want %s", c.bits, c.n, c.in, got, c.want)
			}
		})
	}
}

func TestNth_HostBitsSet_CountsFromTheNetworkAddress(t *testing.T) {
	for in, want := range map[string]string{"10.43.0.0/16": "10.43.0.10", "fd43::/112": "fd43::a", "10.96.255.250/28": "10.96.255.250"} {
		t.Run(in, func(t *testing.T) {
			if got := Nth(netip.MustParsePrefix(in), 10); got.String() != want {
				t.Errorf("address 10 of %s is %s, want %s", in, got, want)
			}
		})
	}
}

func TestLast_EachFamily_HasAllHostBits(t *testing.T) {
	for in, want := range map[string]string{"10.42.0.0/23": "10.42.1.255", "10.0.0.1/32": "10.0.0.1",
		"fd42::/63": "fd42::1:ffff:ffff:ffff:ffff"} {
		t.Run(in, func(t *testing.T) {
			if got := Last(netip.MustParsePrefix(in)); got.String() != want {
				t.Errorf("last address of %s is %s, want %s", in, got, want)
			}
		})
	}
}

func FuzzNth(f *testing.F) {
	f.Add([]byte{10, 0, 0, 255}, uint64(1))
	f.Add([]byte{0xfd, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint64(3))
	f.Fuzz(func(t *testing.T, raw []byte, n uint64) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok || a.Is4In6() {
			return
		}
		if a.Is4() {
			n &= 1<<32 - 1
		}
		sum := new(big.Int).Add(new(big.Int).SetBytes(raw), new(big.Int).SetUint64(n))
		if sum.BitLen() > a.BitLen() {
			return
		}
		want, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, len(raw))))
		if got := Nth(netip.PrefixFrom(a, a.BitLen()), n); got != want {
			t.Errorf("%s + %d is %s, want %s", a, n, got, want)
		}
	})
}
