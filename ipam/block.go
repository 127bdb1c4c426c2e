// Package ipam assigns Pod CIDRs to nodes and addresses to Pods.
//
// Blocks: ClaimBlocks and ClaimMore claim Pod CIDRs for this node in the store, by one transaction per claim. A block
// belongs to a node name and the identity on that node's disk, without a lease; it is never released here.
//
// Addresses: Pool assigns the addresses of the node's blocks to attachments. It owns the journal on disk and never needs
// the store. No method starts a goroutine, and no packet passes through the package.
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

// BlockStore is the store's part in claims.
type BlockStore interface {
	// Blocks lists all claims and the store's revision at that moment.
	Blocks(ctx context.Context) (all []model.Block, revision int64, err error)
	// ClaimBlocks creates all of want in one transaction if none of them exists. Otherwise it creates none, and returns won
	// false and all current claims.
	ClaimBlocks(ctx context.Context, want []model.Block) (won bool, now []model.Block, revision int64, err error)
}

// Owner identifies the node that claims: its name and the identity on its disk.
type Owner struct{ Node, Identity string }

// ErrNoFreeBlock means that every block of a Pod range has an owner.
var ErrNoFreeBlock = errors.New("no free block")

// ClaimBlocks returns all blocks of the owner. In each Pod range of the cluster where the owner has none, it claims one.
//
// Blocks in prefer are claimed where they are free: after the store lost its data, a node claims the blocks that its Pods
// use. A claim has no lease and ends only by release. A request whose outcome is unknown (timeout) may be repeated,
// because the owner then finds its own block. The revision is that of the store's last response.
func ClaimBlocks(ctx context.Context, s BlockStore, c model.Cluster, o Owner, prefer []netip.Prefix) ([]netip.Prefix, int64, error) {
	have, rev, err := s.Blocks(ctx)
	if err != nil {
		return nil, 0, err
	}
	for try := 0; ; try++ {
		mine, missing := owned(c, have, o)
		want := preferred(c, have, o, prefer)
		if len(missing)+len(want) == 0 {
			return mine, rev, nil
		}
		if want == nil {
			if want, err = choose(c, missing, have, o, try, fromStart); err != nil {
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

// ClaimMore claims one more block in each of ranges, for a node whose blocks there are full. It searches from the end of
// the range. The first blocks of nodes are at the start of the range, and another CNI plugin may use some of those on nodes
// that are not migrated yet.
func ClaimMore(ctx context.Context, s BlockStore, c model.Cluster, o Owner, ranges []netip.Prefix) ([]netip.Prefix, int64, error) {
	have, _, err := s.Blocks(ctx)
	for try := 0; err == nil; try++ {
		var want []model.Block
		if want, err = choose(c, ranges, have, o, try, fromEnd); err != nil {
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

// preferred returns claims for the preferred blocks that are inside the cluster's ranges and overlap no claimed block.
func preferred(c model.Cluster, have []model.Block, o Owner, prefer []netip.Prefix) (out []model.Block) {
	for _, p := range prefer {
		inside := slices.ContainsFunc(c.PodCIDRs, func(r netip.Prefix) bool { return r.Overlaps(p) })
		if inside && !slices.ContainsFunc(have, func(b model.Block) bool { return reserves(c, b) && b.CIDR.Overlaps(p) }) {
			out = append(out, newBlock(p, o))
		}
	}
	return out
}

// reserves reports whether a claim excludes its addresses from other claims. One without an owner, of a record that cannot be read,
// reserves a block of the cluster's size only: a claim of any other size is none of a node.
func reserves(c model.Cluster, b model.Block) bool {
	return b.Node != "" || b.CIDR.Bits() == c.Bits(b.CIDR)
}

// newBlock returns the claim of a prefix.
func newBlock(p netip.Prefix, o Owner) model.Block {
	return model.Block{CIDR: p, Node: o.Node, Identity: o.Identity, Claimed: time.Now().UTC().Truncate(time.Second)}
}

// choose returns claims for one block number that is free in every missing range. Both families of a node get the same
// number: 10.42.3.0/24 and fd42:0:0:3::/64.
//
// The first try takes the number nearest to the end from. Later tries choose at random from a window that doubles with each
// try, so that n nodes that claim at once need a constant number of transactions each.
func choose(c model.Cluster, missing []netip.Prefix, have []model.Block, o Owner, try int, from end) ([]model.Block, error) {
	window := 1
	if try > 0 {
		window = 4 << min(try, 12)
	}
	free := freeIndexes(c, missing, have, window, from)
	if len(free) == 0 {
		return nil, fmt.Errorf(
			"%w in %v: all are claimed; release those of removed nodes with `warren node rm NAME`, or use a larger Pod range",
			ErrNoFreeBlock, missing)
	}
	i := free[rand.IntN(len(free))]
	out := make([]model.Block, 0, len(missing))
	for _, r := range missing {
		out = append(out, newBlock(netx.NthPrefix(r, c.Bits(r), uint64(i)), o))
	}
	return out, nil
}

// end is the end of a range where the search starts.
type end uint8

const (
	fromStart end = iota
	fromEnd
)

// freeIndexes returns up to limit block numbers that are free in all ranges, the nearest to the end from first.
func freeIndexes(c model.Cluster, ranges []netip.Prefix, have []model.Block, limit int, from end) []int {
	taken := make(map[netip.Prefix]bool, len(have))
	var otherSize []netip.Prefix // blocks of another size than the cluster's: compared one by one
	for _, b := range have {
		if !reserves(c, b) {
			continue
		}
		if taken[b.CIDR] = true; b.CIDR.Bits() != c.Bits(b.CIDR) {
			otherSize = append(otherSize, b.CIDR)
		}
	}
	var out []int
	n := blockCount(c, ranges)
	for k := 0; k < n && len(out) < limit; k++ {
		i := k
		if from == fromEnd {
			i = n - 1 - k
		}
		if isFree(c, ranges, taken, otherSize, i) {
			out = append(out, i)
		}
	}
	return out
}

// isFree reports whether block number i overlaps no claimed block in any range.
func isFree(c model.Cluster, ranges []netip.Prefix, taken map[netip.Prefix]bool, otherSize []netip.Prefix, i int) bool {
	for _, r := range ranges {
		b := netx.NthPrefix(r, c.Bits(r), uint64(i))
		if taken[b] {
			return false
		}
		for _, o := range otherSize {
			if o.Overlaps(b) {
				return false
			}
		}
	}
	return true
}

// maxNumbers bounds the search for a free block number in a large IPv6 range.
const maxNumbers = 1 << 20

// blockCount is the number of blocks that every range has.
func blockCount(c model.Cluster, ranges []netip.Prefix) int {
	n := maxNumbers
	for _, r := range ranges {
		if bits := c.Bits(r) - r.Bits(); bits < 20 {
			n = min(n, 1<<max(bits, 0))
		}
	}
	return n
}
