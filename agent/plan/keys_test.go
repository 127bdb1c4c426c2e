package plan

import (
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel"
)

// A node that replaces its key is a peer with both keys, and the record confirms the next one.
func TestMake_NodeHasNextKey_PeerAndRecordHaveIt(t *testing.T) {
	in := testInput()
	in.NextPublicKey = testKey(8)
	in.Snapshot.Nodes[0].NextPublicKey = testKey(8)
	in.Snapshot.Nodes[1].NextPublicKey = testKey(9)
	p := mustMake(t, in)
	if p.Peers[0].PublicKey != testKey(2) || p.Peers[0].NextKey != testKey(9) || !p.Peers[1].NextKey.IsZero() {
		t.Errorf("peers %+v", p.Peers)
	}
	if n := p.Node; n.PublicKey != testKey(1) || n.NextPublicKey != testKey(8) || !slices.Equal(n.AcceptedKeys, []model.Key{testKey(9)}) {
		t.Errorf("record %+v", n)
	}
}

// The pre-shared key is that of all nodes, and of no external peer.
func TestMake_PresharedKey_NodesHaveIt(t *testing.T) {
	in := testInput()
	in.PresharedKey = testKey(7)
	in.External = []tunnel.Peer{{Name: "laptop", PublicKey: testKey(20), External: true}}
	for _, p := range mustMake(t, in).Peers {
		if want := !p.External; (p.PresharedKey == testKey(7)) != want {
			t.Errorf("peer %s has the pre-shared key %s", p.Name, p.PresharedKey)
		}
	}
}

// A next key that another record has, as next key or as key, is neither configured nor confirmed.
func TestMake_NextKeyOfTwoRecords_IsRefusedForBoth(t *testing.T) {
	for name, next := range map[string][2]model.Key{"both next": {testKey(9), testKey(9)}, "another's key": {testKey(3), {}},
		"own key": {testKey(1), {}}} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			in.Snapshot.Nodes[1].NextPublicKey, in.Snapshot.Nodes[2].NextPublicKey = next[0], next[1]
			p := mustMake(t, in)
			for _, peer := range p.Peers {
				if !peer.NextKey.IsZero() {
					t.Errorf("%s: peer %+v", name, peer)
				}
			}
			if len(p.Node.AcceptedKeys) != 0 || len(p.Problems) == 0 {
				t.Errorf("%s: accepted %v, problems %q", name, p.Node.AcceptedKeys, p.Problems)
			}
		})
	}
}
