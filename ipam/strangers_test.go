package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/internal/api"
)

// Addresses that another network's Pods hold are not given away, and are free again once those are gone.
func TestStrangers(t *testing.T) {
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
	p.SetStrangers([]netip.Addr{first.Addresses[0], a("10.42.7.4"), a("10.42.7.5")})
	if second, err := reserve("c2"); err != nil || second.Addresses[0] != a("10.42.7.6") {
		t.Errorf("%v %v: expected the address behind the strangers'", second.Addresses, err)
	}
	var refused *RequestError
	if _, err := reserve("c3", a("10.42.7.5")); !errors.As(err, &refused) {
		t.Errorf("a stranger's address on request: %v", err)
	}
	var full *FullError
	if _, err := reserve("c4"); !errors.As(err, &full) {
		t.Errorf("the pool should be full: %v", err)
	}
	p.SetStrangers([]netip.Addr{a("10.42.7.5")})
	if third, err := reserve("c5"); err != nil || third.Addresses[0] != a("10.42.7.4") {
		t.Errorf("%v %v: expected the address that the stranger left", third.Addresses, err)
	}
}
