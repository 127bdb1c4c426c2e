package table

import "github.com/warrennet/warren/servicelb/internal/stable"

// maglevSizes are primes. A table has at least a hundred slots for each backend, as long as the largest size suffices.
var maglevSizes = []int{251, 1021, 4093, 16381, 65521}

// maxMaglevSlots bounds the tables of one Service: sixteen of the largest size, 2 MiB.
const maxMaglevSlots = 1 << 20

// maglevSize returns the size of the table for so many backends, 0 for none.
func maglevSize(backends int) int {
	if backends == 0 {
		return 0
	}
	for _, s := range maglevSizes {
		if s >= 100*backends {
			return s
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// maglev builds the lookup table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
// section 3.4: the backends take turns, each in its own permutation of the slots. A change of one backend moves few
// clients of the other backends.
func maglev(backends []Backend) []uint16 {
	n := min(len(backends), 1<<15)
	if n == 0 {
		return nil
	}
	size := maglevSize(n)
	const none = ^uint16(0)
	table := make([]uint16, size)
	for i := range table {
		table[i] = none
	}
	at, step := make([]int, n), make([]int, n)
	for i := range n {
		b := backends[i]
		at[i] = int(stable.Hash(b.Addr, uint64(b.Port)) % uint64(size))
		step[i] = int(stable.Hash(b.Addr, uint64(b.Port)|1<<32)%uint64(size-1)) + 1
	}
	for filled := 0; ; {
		for i := range n {
			for table[at[i]] != none {
				at[i] = (at[i] + step[i]) % size
			}
			table[at[i]] = uint16(i)
			if filled++; filled == size {
				return table
			}
		}
	}
}
