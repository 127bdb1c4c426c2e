package tunnel

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.zx2c4.com/wireguard/device"
)

// Replacement of a node's key without packet loss. A WireGuard peer is a key, so that a node with a next key is two peers here:
//
//  1. The other nodes configure the next key as a standby peer: without allowed IPs and endpoints.
//  2. The node replaces its own key (SetPrivateKey). It stops sending with the old sessions, queues packets, and initiates a
//     handshake with each peer. It still receives with the old sessions.
//  3. Another node receives the handshake from the standby peer. Before it responds, it waits until packets of the old session
//     have passed, and moves the allowed IPs and endpoints to the next key (movePeer). With the response, the node sends again.
//  4. The node's record names the new key alone, and the other nodes remove the old one.

// drainTime is how long packets of the old session may take from the UDP socket to the check of their source. A handshake
// overtakes them, because it is processed by another goroutine of the WireGuard device.
const drainTime = 20 * time.Millisecond

// lockTime bounds how long a handshake waits for mu. Afterwards the allowed IPs move with the node's next record.
const lockTime = time.Second

// SetPrivateKey replaces this node's key, and initiates a handshake with each peer. Peers that do not know the new key have no
// tunnel to this node from then on.
func (t *Tunnel) SetPrivateKey(key model.Key) error {
	public, err := PublicKey(key)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg != nil {
		if err := t.wg.IpcSet("private_key=" + hex.EncodeToString(key[:]) + "\n"); err != nil {
			return fmt.Errorf("set key of the WireGuard device: %w", err)
		}
	}
	t.cfg.PrivateKey, t.public = key, public
	for k, s := range t.states {
		if p := t.lookupLocked(k); p != nil && !s.want.standby && len(s.want.Endpoints) > 0 {
			_ = p.SendHandshakeInitiation(false) // the WireGuard device logs failures
		}
	}
	return nil
}

func (t *Tunnel) lookupLocked(key model.Key) *device.Peer {
	if t.wg == nil {
		return nil
	}
	return t.wg.LookupPeer(device.NoisePublicKey(key))
}

// publicKey is this node's current key.
func (t *Tunnel) publicKey() model.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.public
}

// expand makes two peers of each peer with a next key. moved are the next keys that their nodes use already. Of each pair, the
// one in use has the peer's settings, and the other one is a standby.
func expand(peers []Peer, moved map[model.Key]bool) (out []Peer) {
	for _, p := range peers {
		if p.NextKey.IsZero() {
			out = append(out, p)
			continue
		}
		standby := Peer{Name: p.Name, PublicKey: p.NextKey, PresharedKey: p.PresharedKey, External: p.External, standby: true}
		if moved[p.NextKey] {
			p.PublicKey, standby.PublicKey, standby.former = p.NextKey, p.PublicKey, true
		}
		out = append(out, p, standby)
	}
	return out
}

// movable reports whether a handshake with this key moves the peer to it: it is a next key that the node does not use yet.
func (p *Peer) movable() bool { return p.standby && !p.former }

// forget drops the moved keys that are no peer's next key any more.
func (t *Tunnel) forget() {
	next := map[model.Key]bool{}
	for _, p := range t.desired {
		next[p.NextKey] = true
	}
	for k := range t.moved {
		if !next[k] {
			delete(t.moved, k)
		}
	}
}

// responding is called before this node responds to a handshake, in the goroutine of the WireGuard device that sends the
// response, and without locks of the device. Other goroutines of the device process further handshakes meanwhile.
func (t *Tunnel) responding(p *device.Peer) {
	v, ok := t.byPeer.Load(p)
	if !ok || !v.(*peerState).want.movable() {
		return
	}
	time.Sleep(drainTime)
	for end := time.Now().Add(lockTime); !t.mu.TryLock(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			return
		}
	}
	defer t.mu.Unlock()
	t.movePeer(v.(*peerState).want.PublicKey)
}

// movePeer moves the allowed IPs of a peer to its next key. It does nothing for the former key of a peer. The caller holds mu.
func (t *Tunnel) movePeer(next model.Key) {
	if t.wg == nil || t.moved[next] {
		return
	}
	for _, p := range t.desired {
		if p.NextKey != next {
			continue
		}
		t.moved[next] = true
		t.want = expand(t.desired, t.moved)
		if err := t.apply(); err != nil {
			t.cfg.Log.Warn("cannot configure all peers of the WireGuard device", "err", err)
		}
		t.cfg.Log.Info("peer has replaced its key", "peer", p.Name)
	}
}

// successor returns the state of the other key of a rotation, whose path MTU and session hold for this one as well.
func (t *Tunnel) successor(w Peer) *peerState {
	for _, s := range t.states {
		if s.want.Name == w.Name && s.want.NextKey == w.PublicKey && !w.PublicKey.IsZero() {
			return s
		}
	}
	return nil
}

// endpointsOf returns the desired endpoints of the peer with that next key.
func (t *Tunnel) endpointsOf(next model.Key) []netip.AddrPort {
	for _, p := range t.desired {
		if p.NextKey == next {
			return p.Endpoints
		}
	}
	return nil
}
