package tunnel

import (
	"bytes"
	"context"
	"time"

	"github.com/warrennet/warren/internal/model"
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
	again := retries{}
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
			t.noteCrossing(again, from, time.Now())
			due.Reset(shyness)
		case now := <-due.C:
			for _, p := range waiting {
				p.SendKeepalive() // with a session that has come about meanwhile: one empty packet
			}
			waiting = nil
			if t.startAgain(again, now) {
				due.Reset(shyness)
			}
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

// retries are the handshakes to be started again, by peer.
type retries map[*device.Peer]retry

type retry struct {
	due   time.Time // zero: done, kept to limit the rate
	last  time.Time // the last time it was done
	noted time.Time // when the answer came; a handshake made well after it makes the retry needless
}

const (
	// crossingWindow is how young a session must be for a misfit answer to be about it: handshakes that cross can
	// leave one that works in one direction only.
	crossingWindow = 2 * time.Second
	// retryPause bounds what forged answers can do to a peer: one handshake in that time.
	retryPause = 10 * time.Second
)

// noteCrossing plans to start the handshake with the peer at that address again: soon on the node with the lower
// key, and on the other one only when that has not helped. An answer that cannot be about the present session is
// left alone, since anybody can forge one.
func (t *Tunnel) noteCrossing(again retries, from string, now time.Time) {
	for _, s := range t.Peers() {
		if s.Endpoint.String() != from {
			continue
		}
		p := t.lookup(s.PublicKey)
		if p == nil || !again[p].due.IsZero() || now.Sub(again[p].last) < retryPause ||
			!t.forgetSession(s.LastHandshake) && now.Sub(s.LastHandshake) > crossingWindow {
			continue
		}
		wait := shyness
		if bytes.Compare(t.public[:], s.PublicKey[:]) > 0 {
			wait *= 3
		}
		again[p] = retry{due: now.Add(wait), last: again[p].last, noted: now}
	}
}

func (t *Tunnel) lookup(key model.Key) *device.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		return nil
	}
	return t.engine.LookupPeer(device.NoisePublicKey(key))
}

// startAgain carries out the retries that are due and reports whether others wait. It makes the engine forget that
// it has just sent a handshake, so that it sends another.
func (t *Tunnel) startAgain(again retries, now time.Time) (more bool) {
	for p, r := range again {
		s, known := t.statusOf(p)
		switch {
		case !known || r.due.IsZero() && now.Sub(r.last) > retryPause:
			delete(again, p)
		case r.due.IsZero():
		case now.Before(r.due):
			more = true
		case s.LastHandshake.After(r.noted.Add(shyness / 2)): // the crossing ones are done within milliseconds
			delete(again, p)
		default:
			again[p] = retry{last: now}
			p.ExpireCurrentKeypairs()
			_ = p.SendHandshakeInitiation(false) // the engine logs failures
		}
	}
	return more
}
