package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/ipam"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func cluster(ranges ...string) model.Cluster {
	c := model.Cluster{Name: "t", BlockBits: [2]int{24, 64}}
	for _, r := range ranges {
		c.PodCIDRs = append(c.PodCIDRs, netip.MustParsePrefix(r))
	}
	return c
}

func owner(i int) ipam.Owner {
	return ipam.Owner{Node: fmt.Sprintf("n%d", i), Identity: fmt.Sprintf("id%d", i)}
}

// counted counts the requests to the store.
type counted struct {
	ipam.BlockStore
	n atomic.Int64
}

func (c *counted) Blocks(ctx context.Context) ([]model.Block, int64, error) {
	c.n.Add(1)
	return c.BlockStore.Blocks(ctx)
}

func (c *counted) ClaimBlocks(ctx context.Context, want []model.Block) (bool, []model.Block, int64, error) {
	c.n.Add(1)
	return c.BlockStore.ClaimBlocks(ctx, want)
}

func claim(t *testing.T, s ipam.BlockStore, c model.Cluster, o ipam.Owner, prefer ...netip.Prefix) []netip.Prefix {
	t.Helper()
	got, rev, err := ipam.ClaimBlocks(context.Background(), s, c, o, prefer)
	if err != nil {
		t.Fatalf("claim for %v: %v", o, err)
	}
	if rev <= 0 {
		t.Errorf("claim for %v: revision %d, expected the store's", o, rev)
	}
	return got
}

func TestClaimBlocks_EachFamily_ClaimsLowestFree(t *testing.T) {
	url := etcdtest.Start(t)
	p := netip.MustParsePrefix
	for _, tc := range []struct {
		name  string
		c     model.Cluster
		first []netip.Prefix
		next  []netip.Prefix
	}{
		{"ipv4", cluster("10.42.0.0/16"), []netip.Prefix{p("10.42.0.0/24")}, []netip.Prefix{p("10.42.1.0/24")}},
		{"ipv6", cluster("fd42::/48"), []netip.Prefix{p("fd42::/64")}, []netip.Prefix{p("fd42:0:0:1::/64")}},
		{"dual", cluster("10.42.0.0/16", "fd42::/48"), []netip.Prefix{p("10.42.0.0/24"), p("fd42::/64")},
			[]netip.Prefix{p("10.42.1.0/24"), p("fd42:0:0:1::/64")}},
		{"ipv6 first", cluster("fd42::/48", "10.42.0.0/16"), []netip.Prefix{p("fd42::/64"), p("10.42.0.0/24")},
			[]netip.Prefix{p("fd42:0:0:1::/64"), p("10.42.1.0/24")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := etcdtest.Open(t, url, "claim-"+tc.c.PodCIDRs[0].String()[:4]+fmt.Sprint(len(tc.c.PodCIDRs)))
			if got := claim(t, s, tc.c, owner(1)); !slices.Equal(got, tc.first) {
				t.Errorf("first node: %v, expected %v", got, tc.first)
			}
			if got := claim(t, s, tc.c, owner(2)); !slices.Equal(got, tc.next) {
				t.Errorf("second node: %v, expected %v", got, tc.next)
			}
			if got := claim(t, s, tc.c, owner(1)); !slices.Equal(got, tc.first) {
				t.Errorf("first node again: %v, expected its own %v", got, tc.first)
			}
			lost := ipam.Owner{Node: "n1", Identity: "new disk"}
			if got := claim(t, s, tc.c, lost); slices.Contains(got, tc.first[0]) {
				t.Errorf("node with a new disk took the block %v of its old identity", got)
			}
		})
	}
}

func TestClaimBlocks_StoreLostData_ClaimsPreferred(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "prefer")
	c := cluster("10.42.0.0/16", "fd42::/48")
	held := []netip.Prefix{netip.MustParsePrefix("10.42.7.0/24"), netip.MustParsePrefix("fd42:0:0:7::/64")}
	if got := claim(t, s, c, owner(1), held...); !slices.Equal(got, held) {
		t.Errorf("after the store lost its data: %v, expected the preferred %v", got, held)
	}
	if got := claim(t, s, c, owner(2), held...); slices.Contains(got, held[0]) || slices.Contains(got, held[1]) {
		t.Errorf("%v overlaps the blocks of node 1", got)
	}
}

func TestClaimBlocks_RangeFull_ReturnsErrNoFreeBlock(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "full")
	c := cluster("10.42.0.0/23")
	claim(t, s, c, owner(1))
	claim(t, s, c, owner(2))
	_, _, err := ipam.ClaimBlocks(context.Background(), s, c, owner(3), nil)
	if !errors.Is(err, ipam.ErrNoFreeBlock) {
		t.Fatalf("third node in a range of two blocks: %v, expected ErrNoFreeBlock", err)
	}
	if _, err := s.DeleteNode(context.Background(), "n1", ""); err != nil {
		t.Fatal(err)
	}
	if got := claim(t, s, c, owner(3)); got[0].String() != "10.42.0.0/24" {
		t.Errorf("after release: %v", got)
	}
}

// A release must never free the block of another identity with the same node name.
func TestDeleteNode_OtherIdentity_ReleasesNothing(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "fence")
	c := cluster("10.42.0.0/16")
	claim(t, s, c, owner(1))
	if freed, err := s.DeleteNode(context.Background(), "n1", "another"); err != nil || len(freed) != 0 {
		t.Errorf("release under a wrong identity freed %v, err %v", freed, err)
	}
}

func TestClaimBlocks_ManyNodesAtOnce_GetDistinctBlocks(t *testing.T) {
	url := etcdtest.Start(t)
	for _, n := range []int{8, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := &counted{BlockStore: etcdtest.Open(t, url, fmt.Sprintf("race%d", n))}
			c := cluster("10.42.0.0/16", "fd42::/48")
			var wg sync.WaitGroup
			got := make([][]netip.Prefix, n)
			for i := range n {
				wg.Add(1)
				go func() {
					defer wg.Done()
					b, _, err := ipam.ClaimBlocks(context.Background(), s, c, owner(i), nil)
					if err != nil {
						t.Error(err)
					}
					got[i] = b
				}()
			}
			wg.Wait()
			holder := map[netip.Prefix]int{}
			for i, bs := range got {
				if len(bs) != 2 {
					t.Errorf("node %d holds %v, expected one block per family", i, bs)
				}
				for _, b := range bs {
					if j, dup := holder[b]; dup {
						t.Errorf("block %v is held by nodes %d and %d", b, i, j)
					}
					holder[b] = i
				}
			}
			perNode := float64(s.n.Load()) / float64(n)
			t.Logf("%d nodes at once: %.1f store requests per node", n, perNode)
			if perNode > 8 {
				t.Errorf("%.1f store requests per node with %d nodes at once: expected a small constant", perNode, n)
			}
		})
	}
}

// Another block is claimed at the end of the range, only in the given families, and belongs to the node from then on.
func TestClaimMore_LastBlocks_AreClaimedOnce(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "more")
	c := cluster("10.42.0.0/22", "fd42::/48")
	ctx := context.Background()
	first := claim(t, s, c, owner(1))
	got, rev, err := ipam.ClaimMore(ctx, s, c, owner(1), c.PodCIDRs[:1])
	if err != nil || rev <= 0 || len(got) != 1 || got[0].String() != "10.42.3.0/24" {
		t.Fatalf("one more: %v at %d, %v; expected 10.42.3.0/24", got, rev, err)
	}
	if all := claim(t, s, c, owner(1)); len(all) != len(first)+1 || !slices.Contains(all, got[0]) {
		t.Errorf("the node holds %v, expected %v and %v", all, first, got)
	}

	var wg sync.WaitGroup
	results := make([]error, 4) // two blocks are left
	for i := range results {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, _, results[i] = ipam.ClaimMore(ctx, s, c, owner(2+i), c.PodCIDRs[:1])
		}()
	}
	wg.Wait()
	var won, full int
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case errors.Is(err, ipam.ErrNoFreeBlock):
			full++
		default:
			t.Error(err)
		}
	}
	if won != 2 || full != 2 {
		t.Errorf("%d of 4 nodes got one of the last two blocks and %d got ErrNoFreeBlock", won, full)
	}
	freed, err := s.DeleteNode(ctx, "n1", "")
	if err != nil || len(freed) != 3 {
		t.Errorf("the removal of the node freed %v, %v; expected all three", freed, err)
	}
}

// A store that was restored from a backup may have one of a node's blocks and lack another. Pods use both.
func TestClaimBlocks_StoreRestored_ClaimsMissingBlock(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "forgot")
	c := cluster("10.42.0.0/16")
	held := append(claim(t, s, c, owner(1)), netip.MustParsePrefix("10.42.200.0/24"))
	if got := claim(t, s, c, owner(1), held...); !slices.Equal(got, held) {
		t.Errorf("%v, expected both of %v", got, held)
	}
	taken := claim(t, s, c, owner(2), netip.MustParsePrefix("10.42.9.0/24"))
	if got := claim(t, s, c, owner(1), append(held, taken...)...); !slices.Equal(got, held) {
		t.Errorf("%v, expected %v without %v, which belongs to another node", got, held, taken)
	}
}

// A block record that cannot be read reserves its own block and prevents no other claim.
func TestClaimBlocks_UnreadableRecord_ClaimsTheNextBlock(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "unreadable")
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for key, value := range map[string]string{"10.42.0.0-24": "{", "10.42.1.0-24": `{"v":99,"value":{}}`, "nothing": "", "0.0.0.0-0": "",
		"10.42.2.0-24": `{"v":1,"value":{"cidr":"10.42.3.0/24","node":"n9","identity":"id9"}}`} {
		if _, err := raw.Put(context.Background(), "/warren/unreadable/blocks/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	c, p := cluster("10.42.0.0/16"), netip.MustParsePrefix
	for i, want := range []string{"10.42.3.0/24", "10.42.4.0/24"} {
		if got := claim(t, s, c, owner(i), p("10.42.0.0/24"), p("10.42.2.0/24")); !slices.Equal(got, []netip.Prefix{p(want)}) {
			t.Errorf("node %d claimed %v, expected %s", i, got, want)
		}
	}
	if got, _, err := ipam.ClaimMore(context.Background(), s, c, owner(0), c.PodCIDRs); err != nil || len(got) != 1 {
		t.Errorf("a further block: %v, %v", got, err)
	}
}
