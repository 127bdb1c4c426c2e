package tunnel

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/route"
	"github.com/warrennet/warren/tunnel/internal/uapi"
	"golang.zx2c4.com/wireguard/device"
)

// SetPeers replaces all peers. It compares the given ones with the peers of the WireGuard device and changes the differences: a peer
// that stays keeps its session and the endpoint that it has roamed to. Additions come before removals. Errors of single peers are
// joined and do not affect the others. Before Run it stores the peers for the start.
func (t *Tunnel) SetPeers(desired []Peer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	good, bad := normalize(desired, t.public)
	t.desired = good
	t.forget()
	t.want = expand(good, t.moved)
	if t.wg == nil {
		return bad
	}
	return errors.Join(bad, t.apply())
}

// apply configures the WireGuard device and the routes as desired. The caller holds mu.
func (t *Tunnel) apply() error {
	state, err := t.state()
	if err != nil {
		return err
	}
	before := map[model.Key][]netip.AddrPort{}
	for k, s := range t.states {
		before[k] = s.want.Endpoints
		if s.want.standby { // a handshake with this key has set the endpoint
			before[k] = t.endpointsOf(k)
		}
	}
	var errs error
	changes := plan(state.Peers, t.want, before)
	for _, c := range changes {
		errs = errors.Join(errs, t.configure(c.peer, "set", c.add))
	}
	initiate, respond := t.adopt(state)
	for _, c := range changes {
		errs = errors.Join(errs, t.configure(c.peer, "remove from", c.remove))
	}
	for _, p := range initiate {
		p.SendKeepalive() // without a session: a handshake
	}
	if len(respond) > 0 {
		select {
		case t.responder <- respond:
		default: // traffic for those peers starts the handshake
		}
	}
	return errs
}

func (t *Tunnel) configure(peer, verb, text string) error {
	if text == "" {
		return nil
	}
	if err := t.wg.IpcSet(text); err != nil {
		return fmt.Errorf("%s peer %s: %w", verb, peer, err)
	}
	return nil
}

func (t *Tunnel) state() (uapi.State, error) {
	text, err := t.wg.IpcGet()
	if err != nil {
		return uapi.State{}, fmt.Errorf("read peers of the WireGuard device: %w", err)
	}
	return uapi.ParseState(text)
}

// adopt makes the routes point at the desired peers, and returns those that are new to the WireGuard device and have an endpoint.
// A handshake with them starts at once: after a restart of this node they still use the lost session, and would notice that after
// 15 seconds only. Two nodes that are new to each other would both initiate one, and handshakes that cross cost five seconds or
// the first packets. So the node with the higher key responds, and initiates later if no handshake came.
func (t *Tunnel) adopt(had uapi.State) (initiate, respond []*device.Peer) {
	states := make(map[model.Key]*peerState, len(t.want))
	var owners []*route.Owner
	live := map[*device.Peer]bool{}
	for _, w := range t.want {
		s := t.states[w.PublicKey]
		unused := s != nil && s.want.standby && !had.Peers[w.PublicKey].Endpoint.IsValid() // no handshake has come with this key
		if s == nil || !slices.Equal(s.want.Endpoints, w.Endpoints) || !reflect.DeepEqual(s.want, w) {
			fresh := newPeerState(w, t.bind.ParseEndpoint)
			if s == nil || s.want.standby {
				s = cmp.Or(t.successor(w), s)
			}
			if s != nil {
				fresh.owner.PathMTU.Store(s.owner.PathMTU.Load())
				fresh.owner.Live.Store(s.owner.Live.Load())
			}
			s = fresh
		}
		states[w.PublicKey] = s
		if !w.standby {
			owners = append(owners, s.owner)
		}
		if p := t.wg.LookupPeer(device.NoisePublicKey(w.PublicKey)); p != nil {
			t.byPeer.Store(p, s)
			live[p] = true
			if _, old := had.Peers[w.PublicKey]; old && !unused || len(w.Endpoints) == 0 {
				continue
			}
			if bytes.Compare(t.public[:], w.PublicKey[:]) < 0 {
				initiate = append(initiate, p)
			} else {
				respond = append(respond, p)
			}
		}
	}
	t.states = states
	t.dev.SetRoutes(route.New(owners))
	t.byPeer.Range(func(p, _ any) bool {
		if !live[p.(*device.Peer)] {
			t.byPeer.Delete(p)
		}
		return true
	})
	return initiate, respond
}

// Peers returns all peers as the WireGuard device has them, in the order of the last SetPeers. Before and after Run there are none.
func (t *Tunnel) Peers() []PeerStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg == nil {
		return nil
	}
	state, err := t.state()
	if err != nil {
		t.cfg.Log.Warn("cannot read the peers of the WireGuard device", "err", err)
	}
	var out []PeerStatus
	for _, w := range t.want {
		if p, ok := state.Peers[w.PublicKey]; ok && !w.standby {
			out = append(out, t.status(w, p))
		}
	}
	return out
}

// status describes a peer. The caller holds mu.
func (t *Tunnel) status(w Peer, p uapi.Peer) PeerStatus {
	s := PeerStatus{Name: w.Name, PublicKey: p.PublicKey, External: w.External, Endpoint: p.Endpoint, LastHandshake: p.LastHandshake,
		RxBytes: p.RxBytes, TxBytes: p.TxBytes, AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive}
	if state := t.states[w.PublicKey]; state != nil {
		mtu, _ := t.dev.MTU()
		s.MTU = state.owner.Limit(mtu)
		if s.MTU < state.owner.Configured(mtu) {
			s.PathMTU = s.MTU
		}
	}
	return s
}
