package announce

import (
	"net/netip"
	"testing"
)

// A membership that the kernel refused is not counted: the next attempt calls the kernel again.
func TestLink_JoinFails_IsNotCounted(t *testing.T) {
	l := &link{groups: -1, joined: map[netip.Addr]int{}}
	for range 2 {
		if err := l.join(netip.MustParseAddr("2001:db8::1")); err == nil {
			t.Error("joined without a socket")
		}
	}
	if len(l.joined) != 0 {
		t.Errorf("memberships %v, expected none", l.joined)
	}
	if err := l.leave(netip.MustParseAddr("2001:db8::1")); err != nil {
		t.Errorf("leave after a failed join: %v", err)
	}
}
