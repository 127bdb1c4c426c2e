package pmtud

import (
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// A narrow path whose endpoint changes to IPv6 is taken for narrow there, too, by the difference of the headers.
func TestSurveyor_EndpointChangesToIPv6_PathMTUShrinksByTheHeader(t *testing.T) {
	four, six := netip.MustParseAddrPort("192.0.2.2:1"), netip.MustParseAddrPort("[2001:db8::2]:1")
	for _, c := range []struct {
		name        string
		from, to    netip.AddrPort
		before, now int
	}{
		{"IPv4 to IPv6", four, six, 1360, 1328},
		{"at the floor", four, six, 1280, 1280},
		{"IPv6 to IPv4", six, four, 1360, 1360},
		{"unchanged", four, four, 1360, 1360},
		{"first endpoint", netip.AddrPort{}, six, 1360, 1360},
		{"no path MTU", four, six, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.before
			v := New(Config{SetPathMTU: func(_ model.Key, mtu int) { got = mtu }})
			p := Peer{Endpoint: c.to, PathMTU: c.before, Configured: 1420, Floor: 1280}
			v.moved(&p, c.from)
			if got != c.now || p.PathMTU != c.now {
				t.Errorf("path MTU %d, stored %d, expected %d", p.PathMTU, got, c.now)
			}
		})
	}
}
