package text

import (
	"net/netip"
	"testing"
)

func TestJoin_Values_ArePrintedWithSeparator(t *testing.T) {
	if got := Join([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::1")}, ", "); got != "192.0.2.1, ::1" {
		t.Errorf("%q", got)
	}
	if got := Join([]int(nil), " "); got != "" {
		t.Errorf("%q, expected nothing for an empty list", got)
	}
}
