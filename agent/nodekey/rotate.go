package nodekey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// Config is what a replacement works with.
type Config struct {
	Node     string
	Snapshot func() *model.Snapshot // the newest one, nil before the first
	// Exclusive calls f while no other node of the cluster is in a call of it. Its context ends when that is no longer certain.
	Exclusive func(ctx context.Context, f func(context.Context) error) error
	// Switch gives the tunnel another key. It returns false while there is no tunnel.
	Switch func(model.Key) (ok bool, err error)
	// Ready reports whether there is a tunnel.
	Ready func() bool
	// External returns the number of external peers: they lose their tunnel when the key is replaced.
	External func() int
	// Handled has the request for a rotation of all nodes that this node has carried out, on its disk.
	Handled    func() (string, error)
	SetHandled func(string) error
	Changed    func() // is called when Record changes; it must not block
	Log        *slog.Logger
}

// settleTime is how long the record has the former key after the switch: other nodes move the allowed IPs with the first
// handshake, which is without loss, and those that receive none move them with the record.
const settleTime = 2 * time.Second

// retryAfter is the pause after a failure, and the interval at which conditions without an event are checked again.
const retryAfter = time.Second

// Run carries out replacements until ctx ends.
func (k *Keys) Run(ctx context.Context, c Config) {
	for ctx.Err() == nil {
		err := k.follow(c)
		if err == nil && k.incomplete() {
			err = c.Exclusive(ctx, func(ctx context.Context) error { return k.replace(ctx, c) })
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if k.report("the replacement of the WireGuard key is incomplete: " + err.Error()) {
				c.Log.Warn("cannot replace the WireGuard key yet; retrying", "err", err)
			}
			k.wait(ctx, retryAfter)
			continue
		}
		k.report("")
		k.wait(ctx, 0)
	}
}

// wait waits for Wake, or for that time unless it is 0.
func (k *Keys) wait(ctx context.Context, atMost time.Duration) {
	var timeout <-chan time.Time
	if atMost > 0 {
		timeout = time.After(atMost)
	}
	select {
	case <-ctx.Done():
	case <-k.wake:
	case <-timeout:
	}
}

// follow begins a replacement if all nodes are requested to replace their keys and this one has not done so.
func (k *Keys) follow(c Config) error {
	snap := c.Snapshot()
	if snap == nil {
		return nil
	}
	if snap.KeyRotation == "" {
		k.created = false
		return nil
	}
	handled, err := c.Handled()
	if err != nil || handled == snap.KeyRotation {
		return err
	}
	if !k.created && !k.incomplete() && c.External() > 0 && !snap.KeyRotationForced {
		return errors.New("all nodes are requested to replace their keys, but this node has external peers, which would lose their " +
			"tunnel: run warren key rotate --force on it and give them the new key")
	}
	if !k.created { // a request that is older than the key does not replace it
		if err := k.Rotate(); err != nil {
			return err
		}
	}
	k.created = false
	return c.SetHandled(snap.KeyRotation)
}

// replace carries out one replacement. It is called again after an error.
func (k *Keys) replace(ctx context.Context, c Config) error {
	if next, pending := k.pending(); pending {
		k.publish(k.Current().Public, next.Public)
		c.Changed()
		if err := k.until(ctx, func() error { return accepted(c, next.Public) }); err != nil {
			return err
		}
		if err := k.commit(); err != nil {
			return fmt.Errorf("write the new key: %w", err)
		}
	}
	current := k.Current()
	if ok, err := c.Switch(current.Private); err != nil || !ok {
		return errors.Join(err, errors.New("the tunnel does not have the new key yet"))
	}
	k.switched()
	c.Log.Info("switched the tunnel to the new WireGuard key", "node", c.Node)
	k.settle(ctx)
	k.publish(current.Public, model.Key{})
	c.Changed()
	defer k.registered()
	return k.until(ctx, func() error { return registered(c, current.Public) })
}

// settle waits for settleTime.
func (k *Keys) settle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(settleTime):
	}
}

// until waits until check succeeds. The status shows its error meanwhile.
func (k *Keys) until(ctx context.Context, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		k.report("the replacement of the WireGuard key waits: " + err.Error())
		k.wait(ctx, retryAfter)
		if ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// accepted reports which nodes would lose their tunnel to this node: those that have not configured the key. A node that does not
// reach the store counts as well, because it may still use its tunnel.
func accepted(c Config, key model.Key) error {
	snap := c.Snapshot()
	if snap == nil {
		return errors.New("no snapshot yet")
	}
	if !c.Ready() {
		return errors.New("there is no tunnel yet")
	}
	var missing []string
	for _, n := range snap.Nodes {
		if n.Name == c.Node || slices.Contains(n.AcceptedKeys, key) {
			continue
		}
		name := n.Name
		if !n.Alive {
			name += " (its agent is not alive; if it does not return: warren node rm " + name + ")"
		}
		missing = append(missing, name)
	}
	if len(missing) > 0 {
		return fmt.Errorf("nodes that have not configured the new key: %s", strings.Join(missing, ", "))
	}
	return nil
}

// registered reports whether the store has the new key.
func registered(c Config, key model.Key) error {
	if snap := c.Snapshot(); snap != nil {
		if n, ok := snap.Node(c.Node); ok && n.PublicKey == key && n.NextPublicKey.IsZero() {
			return nil
		}
	}
	return errors.New("the node's record does not have the new key yet")
}
