package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/api"
)

// Addresses of unmanaged Pods are not assigned. They are free again when SetUnmanaged no longer lists them.
func TestPool_AddressesOfUnmanagedPods_AreNotAssigned(t *testing.T) {
	p, err := OpenPool(PoolConfig{Dir: t.TempDir(), BootID: "b", Blocks: []netip.Prefix{netip.MustParsePrefix("10.42.7.0/29")}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	reserve := func(id string, want ...netip.Addr) (Record, error) {
		r, _, err := p.Reserve(Record{Attachment: api.Attachment{ContainerID: id, IfName: "eth0"}, Requested: want})
		return r, err
	}
	first, err := reserve("c1")
	if err != nil {
		t.Fatal(err)
	}
	p.SetUnmanaged([]netip.Addr{first.Addresses[0], a("10.42.7.4"), a("10.42.7.5")})
	if second, err := reserve("c2"); err != nil || second.Addresses[0] != a("10.42.7.6") {
		t.Errorf("%v %v: expected the address after those of unmanaged Pods", second.Addresses, err)
	}
	var refused *RequestError
	if _, err := reserve("c3", a("10.42.7.5")); !errors.As(err, &refused) {
		t.Errorf("request for the address of an unmanaged Pod: %v", err)
	}
	var full *FullError
	if _, err := reserve("c4"); !errors.As(err, &full) {
		t.Errorf("the pool should be full: %v", err)
	}
	p.SetUnmanaged([]netip.Addr{a("10.42.7.5")})
	if third, err := reserve("c5"); err != nil || third.Addresses[0] != a("10.42.7.4") {
		t.Errorf("%v %v: expected the address that was freed", third.Addresses, err)
	}
}
