// Package extpeers owns this node's external peers: WireGuard peers that an operator added to this node only and that are no nodes
// of the cluster. It owns their file in the state directory. It starts no goroutine and never changes the WireGuard device; the
// apply loop does that from the plan.
package extpeers

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel"
)

// layout is the version of the file's format.
const layout = 1

// ErrUnknown is returned for a public key that no external peer has.
var ErrUnknown = errors.New("no external peer has this public key")

// Store keeps the external peers in memory and on disk.
type Store struct {
	path string

	mu    sync.Mutex
	peers []api.ExternalPeer
}

// Open reads the file at path; it may be absent.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := model.Decode(raw, layout, &s.peers); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// List returns the peers in the order in which they were added.
func (s *Store) List() []api.ExternalPeer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.peers)
}

// Peers returns the peers for the WireGuard device.
func (s *Store) Peers() (out []tunnel.Peer) {
	for _, p := range s.List() {
		k, err := model.ParseKey(p.PublicKey)
		if err != nil {
			continue // Validate refuses it, so the file was edited by hand
		}
		out = append(out, tunnel.Peer{Name: p.Name, PublicKey: k, Endpoints: p.Endpoints, AllowedIPs: p.AllowedIPs,
			Keepalive: time.Duration(p.Keepalive) * time.Second, External: true})
	}
	return out
}

// Put adds a peer that Validate has accepted, or replaces the one with the same public key.
func (s *Store) Put(p api.ExternalPeer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(append(s.without(p.PublicKey), p))
}

// Delete removes the peer with a public key; the error is ErrUnknown when there is none.
func (s *Store) Delete(publicKey string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.without(publicKey)
	if len(next) == len(s.peers) {
		return fmt.Errorf("delete external peer %q: %w", publicKey, ErrUnknown)
	}
	return s.write(next)
}

func (s *Store) without(publicKey string) []api.ExternalPeer {
	return slices.DeleteFunc(slices.Clone(s.peers), func(x api.ExternalPeer) bool { return x.PublicKey == publicKey })
}

// write replaces the list, on disk first.
func (s *Store) write(peers []api.ExternalPeer) error {
	raw, err := model.Encode(layout, peers)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path, raw, 0o600); err != nil {
		return err
	}
	s.peers = peers
	return nil
}

// Validate reports every invalid field of a peer in one error. blocks are all Pod CIDRs of the cluster that are known.
func Validate(p api.ExternalPeer, blocks []model.Block) error {
	var errs []error
	if _, err := model.ParseKey(p.PublicKey); err != nil {
		errs = append(errs, fmt.Errorf("publicKey: %w", err))
	}
	if p.Name == "" {
		errs = append(errs, errors.New("name: is empty"))
	}
	if len(p.AllowedIPs) == 0 {
		errs = append(errs, errors.New("allowedIPs: is empty; expected at least one prefix such as 10.99.0.5/32"))
	}
	if p.Keepalive < 0 || p.Keepalive > 65535 {
		errs = append(errs, fmt.Errorf("keepalive: %d is outside 0 to 65535 seconds", p.Keepalive))
	}
	for _, ip := range p.AllowedIPs {
		for _, b := range blocks {
			if b.CIDR.Overlaps(ip) {
				errs = append(errs, fmt.Errorf("allowedIPs: %s overlaps the Pod CIDR %s of node %s", ip, b.CIDR, b.Node))
			}
		}
	}
	return errors.Join(errs...)
}
