package ownership

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
)

func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func testRules() *Rules {
	return &Rules{
		Needed:      map[netip.Addr]string{ip("192.0.2.1"): "address of node n1", ip("192.0.2.50"): "address of an etcd server"},
		NodeAddrs:   []netip.Addr{ip("192.0.2.1"), ip("127.0.0.1")},
		NodeUses:    map[Port]string{{model.UDP, 51820}: "warren's tunnel"},
		PodRanges:   []netip.Prefix{pfx("10.42.0.0/16")},
		ExternalIPs: []netip.Prefix{pfx("192.0.2.0/24"), pfx("10.0.0.0/8")}, ServiceRanges: []netip.Prefix{pfx("10.43.0.0/16")},
	}
}

func TestRefuseAddress_EachClass_ReasonNamesTheUse(t *testing.T) {
	r := testRules()
	for _, c := range []struct {
		class Class
		addr  string
		want  string // "" for permitted
	}{
		{ExternalIP, "192.0.2.77", ""},
		{ExternalIP, "198.51.100.1", "service.externalIPs"},
		{ExternalIP, "192.0.2.1", "address of node n1"},
		{ExternalIP, "192.0.2.50", "etcd server"},
		{ExternalIP, "10.43.0.50", "Service ranges"},
		{ExternalIP, "10.42.1.7", "Pod ranges"},
		{ExternalIP, "224.0.0.1", "not a unicast address"},
		{ExternalIP, "127.0.0.1", "not a unicast address"},
		{LoadBalancer, "198.51.100.1", ""},
		{LoadBalancer, "192.0.2.50", "etcd server"},
		{LoadBalancer, "10.43.0.50", "Service ranges"},
		{LoadBalancer, "10.42.0.9", "Pod ranges"},
		{ClusterIP, "10.43.0.50", ""},
		{ClusterIP, "192.0.2.50", "etcd server"},
		{ClusterIP, "10.42.0.9", "Pod ranges"},
		{Pod, "10.42.0.9", ""},
	} {
		t.Run(c.class.String()+" "+c.addr, func(t *testing.T) {
			got := r.RefuseAddress(c.class, ip(c.addr))
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, expected a reason with %q", got, c.want)
			}
		})
	}
	if got := new(Rules).RefuseAddress(ExternalIP, ip("198.51.100.1")); got == "" {
		t.Error("without the setting an external IP is permitted")
	}
}

func TestRefuseNodePort_OwnPortsAndOtherAddresses_Refused(t *testing.T) {
	r := testRules()
	for _, c := range []struct {
		addr  netip.Addr
		proto model.Protocol
		port  uint16
		want  string
	}{
		{netip.Addr{}, model.UDP, 51820, "warren's tunnel"},
		{ip("192.0.2.1"), model.UDP, 51820, "warren's tunnel"},
		{netip.Addr{}, model.TCP, 51820, ""},
		{ip("0.0.0.0"), model.TCP, 80, ""},
		{ip("127.0.0.1"), model.TCP, 80, ""},
		{ip("10.42.1.7"), model.TCP, 80, "not an address of this node"},
	} {
		t.Run(fmt.Sprintf("%v %d %s", c.addr, c.port, c.proto), func(t *testing.T) {
			got := r.RefuseNodePort(c.addr, Port{c.proto, c.port})
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("%v %d/%s: %q, expected a reason with %q", c.addr, c.port, c.proto, got, c.want)
			}
		})
	}
}

// The owner does not depend on the order of the claims, nor on the names of their objects, and no claim of another class or age
// displaces it.
func TestClaimCompare_RandomClaims_OwnerIndependentOfOrderAndName(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		claims := make([]Claim, 1+r.IntN(6))
		for i := range claims {
			claims[i] = Claim{Class: Class(r.IntN(int(HostPort) + 1)), Created: time.Unix(int64(r.IntN(3)), 0),
				UID: string(rune('a' + i)), Owner: model.ObjectName{Namespace: string(rune('a' + r.IntN(26))), Name: "x"}}
		}
		owner := slices.MinFunc(claims, func(a, b Claim) int { return a.Compare(&b) })
		for _, c := range claims { // the slow oracle: each rule on its own
			switch {
			case c.Class < owner.Class:
				t.Fatalf("%+v owns before the class of %+v", owner, c)
			case c.Class == owner.Class && c.Created.Before(owner.Created):
				t.Fatalf("%+v owns before the older %+v", owner, c)
			}
		}
		shuffled := slices.Clone(claims)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for i := range shuffled {
			shuffled[i].Owner.Namespace = string(rune('a' + r.IntN(26)))
		}
		if again := slices.MinFunc(shuffled, func(a, b Claim) int { return a.Compare(&b) }); again.UID != owner.UID {
			t.Fatalf("owner %s, in another order and with other names %s", owner.UID, again.UID)
		}
	}
}
