package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The table is compared with a walk over all prefixes.
func TestTable_RandomPrefixes_LookupIsLongestMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		var peers []*Owner
		seen := map[netip.Prefix]bool{}
		for range r.IntN(12) {
			p := &Owner{}
			for range r.IntN(4) {
				c := randomPrefix(r)
				if !seen[c] {
					seen[c] = true
					p.AllowedIPs = append(p.AllowedIPs, c)
				}
			}
			peers = append(peers, p)
		}
		table := New(peers)
		for range 200 {
			a := randomAddr(r)
			if got, want := table.Lookup(a), slowLookup(peers, a); got != want {
				t.Fatalf("%v: owner %v, want %v of %v", a, got, want, seen)
			}
		}
	}
}

// randomAddr stays in a small corner, edges of the number space included.
func randomAddr(r *rand.Rand) netip.Addr {
	edge := []byte{0, 0xff}[r.IntN(2)]
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{edge, edge, byte(r.IntN(3)), byte(r.Uint32())})
	}
	a := [16]byte{edge, edge}
	a[7], a[8], a[15] = byte(r.IntN(3)), byte(r.IntN(3)), byte(r.Uint32())
	if edge == 0xff {
		for i := range a {
			a[i] |= byte(r.IntN(2)) * 0xff
		}
	} else {
		a[0] = 0xfd
	}
	return netip.AddrFrom16(a)
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	a := randomAddr(r)
	return netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
}

func slowLookup(peers []*Owner, a netip.Addr) (best *Owner) {
	bits := -1
	for _, p := range peers {
		for _, c := range p.AllowedIPs {
			if c.Contains(a) && c.Bits() > bits {
				best, bits = p, c.Bits()
			}
		}
	}
	return best
}

func BenchmarkLookup(b *testing.B) {
	var peers []*Owner
	for i := range 250 {
		peers = append(peers, &Owner{AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), 0}), 24)}})
	}
	table := New(peers)
	a := netip.MustParseAddr("10.42.77.9")
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup(a)
	}
}

func TestOwner_MTUOfPeer_LimitCannotGrowByPadding(t *testing.T) {
	for mtu, want := range map[int]int{0: 1420, 1420: 1420, 9000: 1420, 1419: 1408, 1340: 1328, 1280: 1280, 3: 576} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			if got := (&Owner{MTU: mtu}).Limit(1420); got != want {
				t.Errorf("limit %d, want %d", got, want)
			}
		})
	}
}
