package tunnel

import (
	"bytes"
	"context"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// Handshakes that the engine would not start, or not at the right time. All of it runs in one goroutine, greet, fed
// by the engine's log (enginelog.go) and by SetPeers.

// shyness is how long a node waits with a handshake that the other side should start: more than one needs to cross
// a continent, and more than the 20 ms within which the engine takes a second one for a flood.
const shyness = 150 * time.Millisecond

// freshSession is how old a handshake may be for its session to be usable.
const freshSession = 150 * time.Second

func (t *Tunnel) greet(ctx context.Context) {
	var waiting []*device.Peer
	crossed := map[*device.Peer]bool{}
	due := time.NewTimer(shyness)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-t.stale:
			t.answerStale(p)
		case ps := <-t.shy:
			waiting = append(waiting, ps...)
			due.Reset(shyness)
		case from := <-t.crossings:
			if p := t.mayStartAgain(from); p != nil && !crossed[p] {
				crossed[p] = true
				due.Reset(shyness)
			}
		case <-due.C:
			for _, p := range waiting {
				p.SendKeepalive() // with a session that has come about meanwhile: one empty packet
			}
			for p := range crossed {
				t.startAgain(p)
			}
			waiting = nil
			clear(crossed)
		}
	}
}

// noAnswer is the engine's word that five seconds passed without an answer to a handshake. It is about to try
// again, so the next endpoint is set right here. This runs in the engine's timer: it must take no lock that is held
// while timers are stopped, which SetEndpointFromPacket does not.
func (t *Tunnel) noAnswer(p *device.Peer) {
	v, ok := t.byPeer.Load(p)
	if !ok {
		return
	}
	if e := v.(*peerState).rotate(); e != nil {
		t.stats.rotations.Add(1)
		p.SetEndpointFromPacket(e)
	}
}

// replay is the engine's word that a handshake was refused as older than one before: a replay, or a peer whose
// clock was set back, which would be shut out until its clock has caught up.
func (t *Tunnel) replay(p *device.Peer) {
	select {
	case t.stale <- p:
	default:
	}
}

// sessionGone says whether a handshake at that time cannot have left a usable session. A time in the future means
// that our own clock was set back; then nothing is known.
func sessionGone(handshake time.Time) bool {
	age := time.Since(handshake)
	return handshake.IsZero() || age > freshSession || age < 0
}

// answerStale starts a handshake of our own with a peer whose clock went back: our clock is fine, so the peer will
// accept it. With a session in place nothing is done: then it was a replay, or will be settled by the next rekey.
func (t *Tunnel) answerStale(p *device.Peer) {
	if s, ok := t.statusOf(p); ok && t.forgetSession(s.LastHandshake) {
		t.cfg.Log.Warn("peer sends handshakes from the past, its clock may have been set back; starting one from here", "peer", s.Name)
		_ = p.SendHandshakeInitiation(false) // the engine logs failures
	}
}

func (t *Tunnel) statusOf(p *device.Peer) (PeerStatus, bool) {
	v, ok := t.byPeer.Load(p)
	if !ok {
		return PeerStatus{}, false
	}
	for _, s := range t.Peers() {
		if s.PublicKey == v.(*peerState).want.PublicKey {
			return s, true
		}
	}
	return PeerStatus{}, false
}

// cross is the engine's word that a handshake's answer fits no question: when two nodes start handshakes at the
// same moment, each answers the other's and forgets its own, and both would wait five seconds.
func (t *Tunnel) cross(from string) {
	select {
	case t.crossings <- from:
	default:
	}
}

// mayStartAgain finds the peer at an address, if it is up to this node (the one with the lower key) to try again.
// Anybody can send bad answers from forged addresses, so a peer with a session is left alone.
func (t *Tunnel) mayStartAgain(from string) *device.Peer {
	for _, s := range t.Peers() {
		if s.Endpoint.String() == from && t.forgetSession(s.LastHandshake) && bytes.Compare(t.public[:], s.PublicKey[:]) < 0 {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.engine == nil {
				return nil
			}
			return t.engine.LookupPeer(device.NoisePublicKey(s.PublicKey))
		}
	}
	return nil
}

// startAgain makes the engine forget that it has just sent a handshake, and send another.
func (t *Tunnel) startAgain(p *device.Peer) {
	if s, ok := t.statusOf(p); ok && t.forgetSession(s.LastHandshake) {
		p.ExpireCurrentKeypairs()
		_ = p.SendHandshakeInitiation(false) // the engine logs failures
	}
}
