package etcd

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// burst is how long a watch gathers changes before it hands on one snapshot for all of them.
const burst = 5 * time.Millisecond

// Watch lists everything, hands on the snapshot, and then one more for each burst of changes. It returns when ctx ends
// or when it can no longer vouch for what it has; the caller calls it again, which lists anew.
func (s *Store) Watch(ctx context.Context, on func(*model.Snapshot)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rctx, done := request(ctx)
	list, err := s.cli.Get(rctx, s.prefix, clientv3.WithPrefix())
	done()
	if err != nil {
		return fmt.Errorf("list %s: %w", s.prefix, err)
	}
	t := newTable(s.prefix)
	for _, kv := range list.Kvs {
		t.put(kv)
	}
	on(t.snapshot(list.Header.Revision))
	events := s.cli.Watch(clientv3.WithRequireLeader(ctx), s.prefix, clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1))
	var flush <-chan time.Time
	rev := list.Header.Revision
	for {
		select {
		case <-flush:
			flush = nil
			on(t.snapshot(rev))
		case resp, ok := <-events:
			if !ok {
				return fmt.Errorf("watch %s: stream ended: %w", s.prefix, context.Cause(ctx))
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("watch %s: %w", s.prefix, err)
			}
			for _, e := range resp.Events {
				t.apply(e)
			}
			if rev = resp.Header.Revision; len(resp.Events) > 0 && flush == nil {
				flush = time.After(burst)
			}
		}
	}
}

// table is the decoded content of the prefix, by key.
type table struct {
	prefix   string
	cluster  model.Cluster
	nodes    map[string]model.Node
	blocks   map[string]model.Block
	alive    map[string]string // node -> identity
	objects  objectTable
	problems map[string]string // key -> why it cannot be used
}

func newTable(prefix string) *table {
	return &table{prefix: prefix, nodes: map[string]model.Node{}, blocks: map[string]model.Block{},
		alive: map[string]string{}, objects: newObjectTable(), problems: map[string]string{}}
}

func (t *table) apply(e *clientv3.Event) {
	if e.Type == clientv3.EventTypeDelete {
		t.drop(string(e.Kv.Key))
		return
	}
	t.put(e.Kv)
}

func (t *table) drop(key string) {
	kind, name, _ := strings.Cut(strings.TrimPrefix(key, t.prefix), "/")
	delete(t.problems, key)
	switch kind {
	case "nodes":
		delete(t.nodes, name)
	case "blocks":
		delete(t.blocks, name)
	case "alive":
		delete(t.alive, name)
	case "objects":
		t.objects.drop(name)
	}
}

// put takes one record in. One that cannot be read is a problem to show, and what was known under its key is dropped:
// a stale half is worse than a gap that says why.
func (t *table) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	kind, name, _ := strings.Cut(strings.TrimPrefix(key, t.prefix), "/")
	t.drop(key)
	var err error
	switch kind {
	case "config":
		err = model.Decode(kv.Value, clusterLayout, &t.cluster)
	case "nodes":
		var n model.Node
		if n, err = decodeNode(kv.Value, name); err == nil {
			t.nodes[name] = n
		}
	case "blocks":
		var b model.Block
		if b, err = decodeBlock(kv); err == nil {
			t.blocks[name] = b
		}
	case "alive":
		t.alive[name] = string(kv.Value)
	case "objects":
		err = t.objects.put(name, kv)
	}
	if err != nil {
		t.problems[key] = err.Error()
	}
}

// maxPerNode bounds the lists in a node's record; a record beyond it is refused whole.
const maxPerNode = 256

func decodeNode(raw []byte, name string) (model.Node, error) {
	var n model.Node
	if err := model.Decode(raw, nodeLayout, &n); err != nil {
		return n, err
	}
	switch {
	case n.Name != name:
		return n, fmt.Errorf("names the node %q", n.Name)
	case n.Identity == "":
		return n, fmt.Errorf("identity is empty")
	case n.PublicKey.IsZero():
		return n, fmt.Errorf("publicKey is empty")
	case len(n.Endpoints) > maxPerNode || len(n.Addresses) > maxPerNode || len(n.PodCIDRs) > maxPerNode:
		return n, fmt.Errorf("more than %d endpoints, addresses or podCIDRs", maxPerNode)
	}
	for _, p := range n.PodCIDRs {
		if !p.IsValid() || p != p.Masked() {
			return n, fmt.Errorf("podCIDRs: %v is not a masked prefix", p)
		}
	}
	return n, nil
}

func (t *table) snapshot(rev int64) *model.Snapshot {
	s := &model.Snapshot{Revision: rev, Cluster: t.cluster}
	for _, n := range t.nodes {
		n.Alive = t.alive[n.Name] == n.Identity
		s.Nodes = append(s.Nodes, n)
	}
	sort.Slice(s.Nodes, func(i, j int) bool { return s.Nodes[i].Name < s.Nodes[j].Name })
	for _, b := range t.blocks {
		s.Blocks = append(s.Blocks, b)
	}
	sort.Slice(s.Blocks, func(i, j int) bool { return s.Blocks[i].CIDR.Compare(s.Blocks[j].CIDR) < 0 })
	t.objects.fill(s)
	for k, why := range t.problems {
		s.Problems = append(s.Problems, k+": "+why)
	}
	sort.Strings(s.Problems)
	return s
}
