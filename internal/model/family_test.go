package model

import (
	"net/netip"
	"syscall"
	"testing"
)

func TestFamily_EachFamily_MatchesLinuxAndKubernetes(t *testing.T) {
	for _, c := range []struct {
		addr, unspecified, loopback, all string
		family                           Family
		bits, af                         int
		name                             string
	}{
		{"10.0.0.1", "0.0.0.0", "127.0.0.1", "0.0.0.0/0", IPv4, 32, syscall.AF_INET, "IPv4"},
		{"fd00::1", "::", "::1", "::/0", IPv6, 128, syscall.AF_INET6, "IPv6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := FamilyOf(netip.MustParseAddr(c.addr))
			if f != c.family || f.String() != c.name || f.Bits() != c.bits || f.AF() != c.af {
				t.Errorf("%s: family %v, %d bits, AF %d; want %v, %d bits, AF %d", c.addr, f, f.Bits(), f.AF(), c.family, c.bits, c.af)
			}
			if f.Other() == f || f.Other().Other() != f {
				t.Errorf("other family of %v is %v", f, f.Other())
			}
			if got := f.Unspecified().String(); got != c.unspecified {
				t.Errorf("unspecified address is %s, want %s", got, c.unspecified)
			}
			if got := f.Loopback().String(); got != c.loopback {
				t.Errorf("loopback address is %s, want %s", got, c.loopback)
			}
			if got := f.Default().String(); got != c.all {
				t.Errorf("default prefix is %s, want %s", got, c.all)
			}
		})
	}
}

func TestFamilyOf_MappedAddress_IsIPv6(t *testing.T) {
	if f := FamilyOf(netip.MustParseAddr("::ffff:10.0.0.1")); f != IPv6 {
		t.Errorf("family of an IPv4-mapped address is %v, want IPv6", f)
	}
}

func TestObjectName_Compare_OrdersByNamespaceThenName(t *testing.T) {
	order := []ObjectName{{}, {"", "b"}, {"a", "b"}, {"a", "c"}, {"b", "a"}}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Compare(b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%v compared with %v is %d, want %d", a, b, got, want)
			}
		}
	}
}
