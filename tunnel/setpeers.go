package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"golang.zx2c4.com/wireguard/device"
)

// SetPeers makes the given peers the only ones. It compares them with what the engine really holds and changes the
// differences: a peer that stays keeps its session and the endpoint it has roamed to. Additions go before removals,
// single failures are joined and do not stop the rest. Before Run it remembers them for the start.
func (t *Tunnel) SetPeers(desired []Peer) error {
	good, bad := normalize(desired, t.public)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want = good
	if t.engine == nil {
		return bad
	}
	return errors.Join(bad, t.apply())
}

// apply brings engine and routes to the wish. The caller holds mu.
func (t *Tunnel) apply() error {
	state, err := t.state()
	if err != nil {
		return err
	}
	before := map[model.Key][]netip.AddrPort{}
	for k, s := range t.states {
		before[k] = s.want.Endpoints
	}
	var errs error
	changes := plan(state.peers, state.psk, t.want, before)
	for _, c := range changes {
		errs = errors.Join(errs, t.tell(c.peer, "set", c.add))
	}
	now, later := t.adopt(state)
	for _, c := range changes {
		errs = errors.Join(errs, t.tell(c.peer, "remove from", c.remove))
	}
	for _, p := range now {
		p.SendKeepalive() // without a session: a handshake
	}
	if len(later) > 0 {
		select {
		case t.shy <- later:
		default: // their traffic will do it
		}
	}
	return errs
}

func (t *Tunnel) tell(peer, verb, text string) error {
	if text == "" {
		return nil
	}
	if err := t.engine.IpcSet(text); err != nil {
		return fmt.Errorf("%s peer %s: %w", verb, peer, err)
	}
	return nil
}

func (t *Tunnel) state() (deviceState, error) {
	text, err := t.engine.IpcGet()
	if err != nil {
		return deviceState{}, fmt.Errorf("read the WireGuard engine's peers: %w", err)
	}
	return parseState(text)
}

// adopt makes the routes point at the wish and returns the peers that are new to the engine and can be reached. A
// handshake with them starts right away: after a restart they still send into a session that is gone, and would
// take 15 seconds to find out. Two nodes that meet for the first time would both start one, and handshakes that
// cross cost five seconds or the first packets; so the one with the higher key gives the other some time.
func (t *Tunnel) adopt(had deviceState) (now, later []*device.Peer) {
	states := make(map[model.Key]*peerState, len(t.want))
	var all []*peerState
	live := map[*device.Peer]bool{}
	for _, w := range t.want {
		s := t.states[w.PublicKey]
		if s == nil || !slices.Equal(s.want.Endpoints, w.Endpoints) || !reflect.DeepEqual(s.want, w) {
			fresh := newPeerState(w, t.bind.ParseEndpoint)
			if s != nil {
				fresh.path.Store(s.path.Load())
			}
			s = fresh
		}
		states[w.PublicKey] = s
		all = append(all, s)
		if p := t.engine.LookupPeer(device.NoisePublicKey(w.PublicKey)); p != nil {
			t.byPeer.Store(p, s)
			live[p] = true
			if _, old := had.peers[w.PublicKey]; old || len(w.Endpoints) == 0 {
				continue
			}
			if bytes.Compare(t.public[:], w.PublicKey[:]) < 0 {
				now = append(now, p)
			} else {
				later = append(later, p)
			}
		}
	}
	t.states = states
	t.dev.table.Store(newRoutes(all))
	t.byPeer.Range(func(p, _ any) bool {
		if !live[p.(*device.Peer)] {
			t.byPeer.Delete(p)
		}
		return true
	})
	return now, later
}

// Peers returns all peers as the engine has them, in the order of the last SetPeers. Before Run and after it there
// are none.
func (t *Tunnel) Peers() []PeerStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		return nil
	}
	state, err := t.state()
	if err != nil {
		t.cfg.Log.Warn("peer status", "err", err)
	}
	var out []PeerStatus
	for _, w := range t.want {
		if s, ok := state.peers[w.PublicKey]; ok {
			s.Name, s.Foreign = w.Name, w.Foreign
			if p := t.states[w.PublicKey]; p != nil {
				s.MTU = p.limit(t.dev)
				if s.MTU < p.promised(t.dev) {
					s.PathMTU = s.MTU
				}
			}
			out = append(out, s)
		}
	}
	return out
}
