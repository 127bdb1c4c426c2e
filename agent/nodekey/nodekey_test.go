package nodekey

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/testutil"
)

// cluster is a store with this node, n1, and the nodes n2 and n3; n3 is down.
type cluster struct {
	mu       sync.Mutex
	keys     *Keys
	accepted []model.Key // of n2
	missing  bool        // n3 has not configured what n2 has
	external int
	forced   bool
	noTunnel bool
	failing  int // of the next calls of Switch
	rotation string
	handled  string
	switched []model.Key
}

func (c *cluster) snapshot() *model.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	n1 := model.Node{Name: "n1", Alive: true}
	n1.PublicKey, n1.NextPublicKey = c.keys.Record()
	n3 := model.Node{Name: "n3", PublicKey: model.Key{3}}
	if !c.missing {
		n3.AcceptedKeys = c.accepted
	}
	return &model.Snapshot{KeyRotation: c.rotation, KeyRotationForced: c.forced, Nodes: []model.Node{n1,
		{Name: "n2", PublicKey: model.Key{2}, Alive: true, AcceptedKeys: c.accepted}, n3}}
}

func (c *cluster) accept(k model.Key) {
	c.mu.Lock()
	c.accepted = append(c.accepted, k)
	c.mu.Unlock()
	c.keys.Wake()
}

func (c *cluster) switches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.switched)
}

// run runs the replacement of keys until the returned function is called or the test ends.
func (c *cluster) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.keys.Run(ctx, Config{Node: "n1", Snapshot: c.snapshot, Log: slog.New(slog.DiscardHandler), Changed: func() {},
			Exclusive: func(ctx context.Context, f func(context.Context) error) error { return f(ctx) },
			Switch: func(k model.Key) (bool, error) {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.failing > 0 {
					c.failing--
					return false, nil
				}
				c.switched = append(c.switched, k)
				return true, nil
			},
			Ready: func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return !c.noTunnel
			},
			External: func() int { return c.external },
			Handled:  func() (string, error) { return c.handledID(), nil },
			SetHandled: func(id string) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.handled = id
				return nil
			}})
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func open(t *testing.T, dir string) *Keys {
	t.Helper()
	return testutil.Value[*Keys](t)(Open(dir))
}

// The tunnel switches only after every node has configured the key, and the record has the new key after that. A restart
// in between continues.
func TestRun_Rotate_SwitchesAfterAllNodesHaveTheKey(t *testing.T) {
	dir := t.TempDir()
	c := &cluster{keys: open(t, dir)}
	before := c.keys.Current()
	stop := c.run(t)
	testutil.Must(t, c.keys.Rotate())
	waits := func(k *Keys) func() bool {
		return func() bool { _, next := k.Record(); return !next.IsZero() && k.Problem() != "" }
	}
	testutil.EventuallyTrue(t, "the next key in the record", waits(c.keys))
	_, next := c.keys.Record()
	stop()
	c.keys = open(t, dir)
	if _, kept := c.keys.Record(); kept != next {
		t.Error("the first record after a restart withdraws the next key")
	}
	if c.keys.Current() != before {
		t.Fatal("the key changed before the nodes had it")
	}
	c.missing = true // n3 does not reach the store
	c.run(t)
	testutil.EventuallyTrue(t, "the next key in the record after a restart", waits(c.keys))
	if _, again := c.keys.Record(); again != next || c.switches() != 0 {
		t.Errorf("after a restart: next key %s, before %s, %d switches", again, next, c.switches())
	}
	c.accept(next)
	testutil.EventuallyTrue(t, "n3 as the only node that is missing", func() bool {
		c.keys.Wake()
		return c.keys.Problem() == "the replacement of the WireGuard key waits: nodes that have not configured the new key: n3 "+
			"(its agent is not alive; if it does not return: warren node rm n3)"
	})
	c.mu.Lock()
	c.missing = false
	c.mu.Unlock()
	c.keys.Wake()
	testutil.EventuallyTrue(t, "the end of the replacement", func() bool { return !c.keys.Rotating() })
	if now := c.keys.Current(); now.Public != next || c.switches() != 1 || c.switched[0] != now.Private || c.keys.Problem() != "" {
		t.Errorf("current %s, expected %s; %d switches; problem %q", now.Public, next, c.switches(), c.keys.Problem())
	}
	if record, none := c.keys.Record(); record != next || !none.IsZero() {
		t.Errorf("record %s %s", record, none)
	}
	if again := open(t, dir); again.Current().Public != next || again.Rotating() {
		t.Error("the disk has another key")
	}
}

// A node whose key is new carries out requests that come later.
func TestRun_RequestAfterFirstStart_IsCarriedOut(t *testing.T) {
	c := &cluster{keys: open(t, t.TempDir())}
	c.run(t)
	looks := 0 // after the second one, Run has seen a snapshot without a request
	testutil.EventuallyTrue(t, "a snapshot without a request", func() bool {
		if len(c.keys.wake) == 0 {
			looks++
			c.keys.Wake()
		}
		return looks > 4
	})
	c.mu.Lock()
	c.rotation = "first"
	c.mu.Unlock()
	c.keys.Wake()
	testutil.EventuallyTrue(t, "the next key", func() bool { _, next := c.keys.Record(); return !next.IsZero() })
}

// A request to all nodes is carried out once; a node that is new at that time records it only.
func TestRun_RequestToAllNodes_IsCarriedOutOnce(t *testing.T) {
	dir := t.TempDir()
	c := &cluster{keys: open(t, dir), rotation: "first"}
	stop := c.run(t)
	testutil.EventuallyTrue(t, "the request as handled by the new node", func() bool { c.keys.Wake(); return c.handledID() == "first" })
	stop()
	if c.keys.Rotating() {
		t.Error("a new node replaces its key")
	}
	c.keys, c.rotation = open(t, dir), "second"
	c.run(t)
	testutil.EventuallyTrue(t, "the next key", func() bool { _, next := c.keys.Record(); return !next.IsZero() })
	_, next := c.keys.Record()
	c.accept(next)
	testutil.EventuallyTrue(t, "the end of the replacement", func() bool { return !c.keys.Rotating() })
	for range 10 {
		c.keys.Wake()
	}
	if c.keys.Current().Public != next || c.switches() != 1 {
		t.Errorf("%d switches", c.switches())
	}
}

func (c *cluster) handledID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handled
}

// The last run ended after it had written the new key and before it removed next.key.
func TestOpen_NextKeyIsCurrent_ReplacementIsComplete(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir)
	raw := testutil.Value[[]byte](t)(os.ReadFile(filepath.Join(dir, keyFile)))
	testutil.Must(t, os.WriteFile(filepath.Join(dir, nextFile), raw, 0o600))
	again := open(t, dir)
	if again.Current() != k.Current() || again.Rotating() {
		t.Errorf("%+v", again)
	}
	if _, err := os.Stat(filepath.Join(dir, nextFile)); err == nil {
		t.Error("next.key is left")
	}
}

// Without a tunnel the key stays; a switch that fails is tried again.
func TestRun_NoTunnelOrSwitchFails_IsRetried(t *testing.T) {
	c := &cluster{keys: open(t, t.TempDir()), noTunnel: true, failing: 2}
	before := c.keys.Current()
	c.run(t)
	testutil.Must(t, c.keys.Rotate())
	testutil.EventuallyTrue(t, "the next key", func() bool { _, next := c.keys.Record(); return !next.IsZero() })
	_, next := c.keys.Record()
	c.accept(next)
	testutil.EventuallyTrue(t, "the missing tunnel as the problem", func() bool {
		return c.keys.Problem() == "the replacement of the WireGuard key waits: there is no tunnel yet"
	})
	if c.keys.Current() != before {
		t.Error("the key changed without a tunnel")
	}
	c.mu.Lock()
	c.noTunnel = false
	c.mu.Unlock()
	testutil.EventuallyTrue(t, "the end of the replacement", func() bool { return !c.keys.Rotating() })
	if c.keys.Current().Public != next || c.switches() != 1 {
		t.Errorf("%d switches", c.switches())
	}
}

// A request to all nodes does not cut off external peers, unless it is forced.
func TestRun_RequestToAllNodes_ExternalPeersPreventIt(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	c := &cluster{keys: open(t, dir), rotation: "first", external: 1}
	c.run(t)
	testutil.EventuallyTrue(t, "a problem", func() bool { return strings.Contains(c.keys.Problem(), "external peers") })
	if c.keys.Rotating() || c.handledID() != "" {
		t.Error("the key is replaced")
	}
	c.mu.Lock()
	c.forced = true
	c.mu.Unlock()
	c.keys.Wake()
	testutil.EventuallyTrue(t, "the next key", func() bool { _, next := c.keys.Record(); return !next.IsZero() })
}
