package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
)

// BlockStore is where blocks are claimed: one transaction creates all or none.
type BlockStore interface {
	// Blocks lists all claims and the store's revision at that moment.
	Blocks(ctx context.Context) (all []model.Block, revision int64, err error)
	// ClaimBlocks creates all of want if none exists (won), else returns what is claimed now.
	ClaimBlocks(ctx context.Context, want []model.Block) (won bool, now []model.Block, revision int64, err error)
}

// Owner is who claims: a node name and the identity kept on that node's disk.
type Owner struct{ Node, Identity string }

// ErrNoFreeBlock says that every block of a Pod range has an owner.
var ErrNoFreeBlock = errors.New("no free block")

// ClaimBlocks returns the blocks that owner holds, one per Pod range of the cluster at least, claiming what is missing.
// A claim has no lease: it ends only by release. A request whose outcome is unknown (timeout) is safe to repeat,
// because the owner finds its own block again. The blocks in prefer are taken where they are free: a node that comes
// back after the store lost its data claims what its Pods already use. The revision is that of the last answer.
func ClaimBlocks(ctx context.Context, s BlockStore, c model.Cluster, o Owner, prefer []netip.Prefix) ([]netip.Prefix, int64, error) {
	have, rev, err := s.Blocks(ctx)
	if err != nil {
		return nil, 0, err
	}
	for try := 0; ; try++ {
		mine, missing := owned(c, have, o)
		want := again(c, have, o, prefer)
		if len(missing)+len(want) == 0 {
			return mine, rev, nil
		}
		if want == nil {
			if want, err = pick(c, missing, have, o, try, fromStart); err != nil {
				return mine, rev, err
			}
		}
		var won bool
		var now []model.Block
		if won, now, rev, err = s.ClaimBlocks(ctx, want); err != nil {
			return mine, rev, err
		}
		if won {
			have = append(have, want...)
			continue
		}
		have = now
	}
}

// ClaimMore claims one more block in each of ranges, for a node whose blocks there are full. It looks from the end of the
// range: the beginning is where first blocks are taken, and where another network may have set some aside for nodes that
// have not come over yet.
func ClaimMore(ctx context.Context, s BlockStore, c model.Cluster, o Owner, ranges []netip.Prefix) ([]netip.Prefix, int64, error) {
	have, _, err := s.Blocks(ctx)
	for try := 0; err == nil; try++ {
		var want []model.Block
		if want, err = pick(c, ranges, have, o, try, fromEnd); err != nil {
			break
		}
		won, now, rev, cerr := s.ClaimBlocks(ctx, want)
		if cerr == nil && won {
			return cidrs(want), rev, nil
		}
		have, err = now, cerr
	}
	return nil, 0, err
}

func cidrs(blocks []model.Block) (out []netip.Prefix) {
	for _, b := range blocks {
		out = append(out, b.CIDR)
	}
	return out
}

// owned returns the owner's blocks and the Pod ranges in which it has none.
func owned(c model.Cluster, have []model.Block, o Owner) (mine, missing []netip.Prefix) {
	for _, r := range c.PodCIDRs {
		n := len(mine)
		for _, b := range have {
			if b.Node == o.Node && b.Identity == o.Identity && r.Overlaps(b.CIDR) {
				mine = append(mine, b.CIDR)
			}
		}
		if len(mine) == n {
			missing = append(missing, r)
		}
	}
	return mine, missing
}

// again returns claims for those preferred blocks that lie in the cluster's ranges and overlap nobody's block.
func again(c model.Cluster, have []model.Block, o Owner, prefer []netip.Prefix) (out []model.Block) {
	for _, p := range prefer {
		inside := slices.ContainsFunc(c.PodCIDRs, func(r netip.Prefix) bool { return r.Overlaps(p) })
		if inside && !slices.ContainsFunc(have, func(b model.Block) bool { return b.CIDR.Overlaps(p) }) {
			out = append(out, newBlock(p, o))
		}
	}
	return out
}

func newBlock(p netip.Prefix, o Owner) model.Block {
	return model.Block{CIDR: p, Node: o.Node, Identity: o.Identity, Claimed: time.Now().UTC().Truncate(time.Second)}
}

// pick chooses one index that is free in every missing range, so that both families of a node carry the same number
// (10.42.3.0/24 and fd42:0:0:3::/64). The first try takes the lowest, which people like; later tries choose at random
// among a window that doubles, so that n racing nodes need a constant number of transactions each.
func pick(c model.Cluster, missing []netip.Prefix, have []model.Block, o Owner, try int, from end) ([]model.Block, error) {
	window := 1
	if try > 0 {
		window = 4 << min(try, 12)
	}
	free := freeIndexes(c, missing, have, window, from)
	if len(free) == 0 {
		return nil, fmt.Errorf("%w in %v: all are claimed; release those of removed nodes with `warren node rm NAME`, or take a larger Pod range", ErrNoFreeBlock, missing)
	}
	i := free[rand.IntN(len(free))]
	out := make([]model.Block, 0, len(missing))
	for _, r := range missing {
		out = append(out, newBlock(netx.NthPrefix(r, c.Bits(r), uint64(i)), o))
	}
	return out, nil
}

// end is the end of a range that is looked at first.
type end bool

const (
	fromStart end = false
	fromEnd   end = true
)

// freeIndexes returns up to limit block numbers that are free in all ranges, the nearest to that end first.
func freeIndexes(c model.Cluster, ranges []netip.Prefix, have []model.Block, limit int, from end) []int {
	taken := make(map[netip.Prefix]bool, len(have))
	var odd []netip.Prefix // blocks of another size than the cluster's: compared one by one
	for _, b := range have {
		if taken[b.CIDR] = true; b.CIDR.Bits() != c.Bits(b.CIDR) {
			odd = append(odd, b.CIDR)
		}
	}
	var out []int
	n := blockCount(c, ranges)
	for k := 0; k < n && len(out) < limit; k++ {
		i := k
		if from == fromEnd {
			i = n - 1 - k
		}
		if isFree(c, ranges, taken, odd, i) {
			out = append(out, i)
		}
	}
	return out
}

func isFree(c model.Cluster, ranges []netip.Prefix, taken map[netip.Prefix]bool, odd []netip.Prefix, i int) bool {
	for _, r := range ranges {
		b := netx.NthPrefix(r, c.Bits(r), uint64(i))
		if taken[b] {
			return false
		}
		for _, o := range odd {
			if o.Overlaps(b) {
				return false
			}
		}
	}
	return true
}

// maxBlocks bounds the search in a huge IPv6 range.
const maxBlocks = 1 << 20

// blockCount is the number of blocks that every range has.
func blockCount(c model.Cluster, ranges []netip.Prefix) int {
	n := maxBlocks
	for _, r := range ranges {
		if bits := c.Bits(r) - r.Bits(); bits < 20 {
			n = min(n, 1<<max(bits, 0))
		}
	}
	return n
}
