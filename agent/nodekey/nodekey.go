// Package nodekey owns the WireGuard key of the node, its file, and its replacement without packet loss.
//
// A replacement publishes the next key in the node's record, waits until every node has configured it, switches the
// tunnel to it and then publishes it as the node's key. next.key on the disk exists during a replacement, so that it continues
// after a restart. One node of the cluster replaces its key at a time. Run is the only goroutine. The package changes no peer.
package nodekey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel"
)

// Names of the files in the state directory.
const (
	keyFile  = "private.key"
	nextFile = "next.key"
)

// Pair is a private key and its public key.
type Pair struct{ Private, Public model.Key }

func pair(private model.Key, err error) (Pair, error) {
	if err != nil {
		return Pair{}, err
	}
	public, err := tunnel.PublicKey(private)
	return Pair{private, public}, err
}

// Keys are the node's keys.
type Keys struct {
	dir     string
	created bool // Open has created the key
	wake    chan struct{}

	mu      sync.Mutex
	current Pair
	next    Pair         // zero: no replacement
	record  [2]model.Key // public key and next public key of the node's record
	problem string
	// registering: the store does not have the new key yet.
	registering bool
	// switching: the tunnel may have the former key of the last commit.
	switching bool
}

// Open reads the keys from the state directory. It creates the first one.
func Open(dir string) (*Keys, error) {
	k := &Keys{dir: dir, wake: make(chan struct{}, 1)}
	_, err := os.Stat(k.path(keyFile))
	k.created = errors.Is(err, fs.ErrNotExist)
	if k.current, err = pair(tunnel.LoadOrCreateKey(k.path(keyFile))); err != nil {
		return nil, err
	}
	k.record[0] = k.current.Public
	if _, err := os.Stat(k.path(nextFile)); errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if k.next, err = pair(tunnel.LoadOrCreateKey(k.path(nextFile))); err != nil {
		return nil, err
	}
	if k.next == k.current { // the last run ended between the two steps of commit
		k.next = Pair{}
		return k, os.Remove(k.path(nextFile))
	}
	k.record[1] = k.next.Public // nodes that have configured it must keep it
	return k, nil
}

func (k *Keys) path(name string) string { return filepath.Join(k.dir, name) }

// Current returns the key of the WireGuard device.
func (k *Keys) Current() Pair {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// Pairs returns the key of the WireGuard device, and the key that replaces it if there is one.
func (k *Keys) Pairs() []Pair {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == (Pair{}) {
		return []Pair{k.current}
	}
	return []Pair{k.current, k.next}
}

// Record returns the public keys for the node's record: the one in use and the one that replaces it, zero for none.
func (k *Keys) Record() (public, next model.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record[0], k.record[1]
}

// Rotating reports whether a replacement has begun and not ended.
func (k *Keys) Rotating() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next != (Pair{}) || k.record != [2]model.Key{k.current.Public} || k.registering
}

// Problem returns what a replacement waits for, "" for nothing.
func (k *Keys) Problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}

// Rotate begins a replacement. It does nothing if one has begun.
func (k *Keys) Rotate() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next != (Pair{}) {
		return nil
	}
	next, err := pair(tunnel.LoadOrCreateKey(k.path(nextFile)))
	if err != nil {
		return fmt.Errorf("create the next key: %w", err)
	}
	k.next = next
	k.Wake()
	return nil
}

// Wake makes Run look at the newest snapshot.
func (k *Keys) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// incomplete reports whether a replacement must be continued.
func (k *Keys) incomplete() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next != (Pair{}) || k.switching
}

// switched reports that the tunnel has the current key.
func (k *Keys) switched() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.switching = false
}

func (k *Keys) pending() (Pair, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next, k.next != (Pair{})
}

// publish sets what the node's record has.
func (k *Keys) publish(public, next model.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record, k.registering = [2]model.Key{public, next}, true
}

// registered ends a replacement.
func (k *Keys) registered() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.registering = false
}

// commit makes the next key the current one on the disk and then in memory. The record keeps both.
func (k *Keys) commit() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := atomicfile.Write(k.path(keyFile), []byte(k.next.Private.String()+"\n"), 0o600); err != nil {
		return err
	}
	k.current, k.next, k.switching = k.next, Pair{}, true
	return os.Remove(k.path(nextFile))
}

// report returns whether the problem is a new one.
func (k *Keys) report(problem string) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed = k.problem != problem
	k.problem = problem
	return changed
}
