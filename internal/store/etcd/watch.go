package etcd

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// burst is how long a watch collects changes before it delivers one snapshot for all of them.
const burst = 5 * time.Millisecond

// delivery is when changes are delivered.
type delivery uint8

const (
	afterBurst  delivery = iota // burst after the first change: an apply costs more than the delay
	immediately                 // at once, and then not again for burst
)

// progress is how often a watch requests an answer: without changes the servers would send none, and a client that waits for changes
// cannot distinguish a cluster at rest from servers that do not answer.
const progress = 5 * time.Second

// Watch lists everything and calls on with the snapshot, then once more after each burst of changes. answered is called for the list
// and then at least once per progress while a server answers. Watch returns when ctx ends, or when changes may have been missed. The
// caller then calls it again, which lists everything again.
func (s *Store) Watch(ctx context.Context, on func(*model.Snapshot), answered func()) error {
	return follow(ctx, s, s.cli.Prefix, newTable(s.cli.Prefix), afterBurst, on, answered)
}

// WatchIngress is Watch for the objects that routes are compiled from.
func (s *Store) WatchIngress(ctx context.Context, on func(*model.IngressObjects), answered func()) error {
	prefix := s.cli.Key("objects", "")
	t := &ingressTable{prefix: prefix, objects: objectstore.NewIngressTable(), problems: map[string]string{}}
	return follow(ctx, s, prefix, t, immediately, on, answered)
}

// contents is the decoded content of a prefix.
type contents[T any] interface {
	put(kv *mvccpb.KeyValue)
	drop(key string)
	snapshot(revision int64) T
}

func follow[T any](ctx context.Context, s *Store, prefix string, t contents[T], when delivery, on func(T), answered func()) error {
	ctx, cancel := context.WithCancel(ctx)
	rctx, done := client.Request(ctx)
	list, err := s.cli.Get(rctx, prefix, clientv3.WithPrefix())
	done()
	if err != nil {
		cancel()
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	for _, kv := range list.Kvs {
		t.put(kv)
	}
	answered()
	on(t.snapshot(list.Header.Revision))
	ctx = clientv3.WithRequireLeader(ctx)
	// From the revision of the list, not from the next one: etcd answers no progress request while the first revision of a watch is
	// in the future. follow leaves out what the list contains.
	events := s.cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision))
	var requests sync.WaitGroup
	requests.Go(func() { s.requestProgress(ctx) })
	defer requests.Wait()
	defer cancel()
	w := watch[T]{contents: t, when: when, listed: list.Header.Revision, rev: list.Header.Revision, on: on, answered: answered}
	if err := w.follow(events); err != nil {
		return fmt.Errorf("watch %s: %w", prefix, err)
	}
	return fmt.Errorf("watch %s: stream ended: %w", prefix, context.Cause(ctx))
}

// requestProgress requests an answer on the watch's stream again and again until ctx ends. A request waits while there is no connection.
func (s *Store) requestProgress(ctx context.Context) {
	t := time.NewTicker(progress)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_ = s.cli.RequestProgress(ctx) // without an answer the caller of Watch notices the age of the last one
		}
	}
}

// watch is the state of one Watch.
type watch[T any] struct {
	contents[T]
	when     delivery
	last     time.Time // of the last delivery
	listed   int64     // the revision of the list
	rev      int64
	on       func(T)
	answered func()
}

// delay is the time from a change to its delivery.
func (w *watch[T]) delay() time.Duration {
	if w.when == immediately {
		return max(burst-time.Since(w.last), 0)
	}
	return burst
}

// follow applies responses until the stream ends.
func (w *watch[T]) follow(events clientv3.WatchChan) error {
	var flush <-chan time.Time
	for {
		select {
		case <-flush:
			flush = nil
			w.on(w.snapshot(w.rev))
			w.last = time.Now()
		case resp, ok := <-events:
			if !ok {
				return nil
			}
			if err := resp.Err(); err != nil {
				return err
			}
			w.answered()
			if resp.Header.Revision < w.rev { // the servers have lost data, or this one lags behind
				return fmt.Errorf("revision %d after revision %d", resp.Header.Revision, w.rev)
			}
			for _, e := range resp.Events {
				if e.Kv.ModRevision <= w.listed {
					continue
				}
				if e.Type == clientv3.EventTypeDelete {
					w.drop(string(e.Kv.Key))
				} else {
					w.put(e.Kv)
				}
				if flush == nil {
					flush = time.After(w.delay())
				}
			}
			w.rev = resp.Header.Revision
		}
	}
}

// table is the decoded content of the prefix.
type table struct {
	prefix   string
	cluster  model.Cluster
	nodes    map[string]model.Node
	blocks   map[string]model.Block
	alive    map[string]string           // node -> identity
	revoked  map[string]model.Revocation // a deletion does not remove it
	lost     map[string]bool             // of revoked: deleted since
	rotation records.Rotation
	objects  objectstore.Table
	problems map[string]string // key -> reason
}

func newTable(prefix string) *table {
	return &table{prefix: prefix, nodes: map[string]model.Node{}, blocks: map[string]model.Block{},
		alive: map[string]string{}, revoked: map[string]model.Revocation{}, lost: map[string]bool{}, objects: objectstore.NewTable(),
		problems: map[string]string{}}
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
	case "revoked":
		if _, ok := t.revoked[name]; ok {
			t.lost[name] = true
		}
	case "rotation":
		t.rotation = records.Rotation{}
	case "objects":
		t.objects.Drop(name)
	}
}

// put decodes one record. A record that cannot be decoded is a problem of the snapshot, and the previous value of its key
// is dropped: a missing value with a reason is better than a stale one.
func (t *table) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	kind, name, _ := strings.Cut(strings.TrimPrefix(key, t.prefix), "/")
	t.drop(key)
	var err error
	switch kind {
	case "config":
		t.cluster, err = records.DecodeCluster(kv.Value)
	case "nodes":
		var n model.Node
		if n, err = records.DecodeNode(kv.Value, name); err == nil {
			t.nodes[name] = n
		}
	case "blocks":
		var b model.Block
		if b, err = records.DecodeBlock(kv); err == nil {
			t.blocks[name] = b
		}
	case "alive":
		t.alive[name] = string(kv.Value)
	case "revoked":
		var r model.Revocation
		if r, err = records.DecodeRevocation(kv.Value, name, time.Now()); err == nil {
			err = t.revoke(r)
		}
	case "rotation":
		t.rotation, err = records.DecodeRotation(kv.Value)
	case "objects":
		err = t.objects.Put(name, kv)
	}
	if err != nil {
		t.problems[key] = err.Error()
	}
}

// revoke adds a revocation to the list, which is bounded.
func (t *table) revoke(r model.Revocation) error {
	have, known := t.revoked[r.Node]
	if !known && len(t.revoked) >= model.MaxRevocations {
		return fmt.Errorf("this revocation is ignored: the list has %d nodes, the most that it may have", len(t.revoked))
	}
	t.revoked[r.Node] = have.Merge(r)
	delete(t.lost, r.Node)
	return nil
}

func (t *table) snapshot(rev int64) *model.Snapshot {
	s := &model.Snapshot{Revision: rev, Cluster: t.cluster, KeyRotation: t.rotation.ID,
		KeyRotationForced: t.rotation.Force}
	for _, n := range t.nodes {
		n.Alive = t.alive[n.Name] == n.Identity
		s.Nodes = append(s.Nodes, n)
	}
	sort.Slice(s.Nodes, func(i, j int) bool { return s.Nodes[i].Name < s.Nodes[j].Name })
	for _, b := range t.blocks {
		s.Blocks = append(s.Blocks, b)
	}
	sort.Slice(s.Blocks, func(i, j int) bool { return s.Blocks[i].CIDR.Compare(s.Blocks[j].CIDR) < 0 })
	for name, r := range t.revoked {
		s.Revoked = append(s.Revoked, r)
		if t.lost[name] {
			s.Lost = append(s.Lost, r)
		}
	}
	sort.Slice(s.Revoked, func(i, j int) bool { return s.Revoked[i].Node < s.Revoked[j].Node })
	t.objects.Fill(s)
	for k, why := range t.problems {
		s.Problems = append(s.Problems, k+": "+why)
	}
	sort.Strings(s.Problems)
	return s
}
