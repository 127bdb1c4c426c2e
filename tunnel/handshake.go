package tunnel

import (
	"bytes"
	"context"
	"time"

	"github.com/warrennet/warren/internal/model"
	"golang.zx2c4.com/wireguard/device"
)

// Handshakes that the WireGuard device would not initiate, or not at the right time. They are initiated by one goroutine,
// repairHandshakes, on events of the device's log (devicelog.go) and of SetPeers.

// responderDelay is how long a node waits for a handshake that the other side should initiate, before it initiates one itself. It is
// longer than a handshake takes across a continent, and than the 20 ms within which wireguard-go drops a second one as a flood.
const responderDelay = 150 * time.Millisecond

// sessionLifetime is the age of a handshake after which its session counts as gone: path MTU probes to the peer stop, backpressure no
// longer counts its packets, and a handshake that is refused for its timestamp makes this node initiate one. It is less than the
// 180 seconds after which WireGuard itself refuses to use a session (Reject-After-Time).
const sessionLifetime = 150 * time.Second

// repairHandshakes runs until ctx ends.
func (t *Tunnel) repairHandshakes(ctx context.Context) {
	var waiting []*device.Peer
	again := retries{}
	due := time.NewTimer(responderDelay)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-t.stale:
			t.initiateStale(p)
		case ps := <-t.responder:
			waiting = append(waiting, ps...)
			due.Reset(responderDelay)
		case from := <-t.crossings:
			t.noteCrossing(again, from, time.Now())
			due.Reset(responderDelay)
		case now := <-due.C:
			for _, p := range waiting {
				p.SendKeepalive() // without a session: a handshake; with one: an empty packet
			}
			waiting = nil
			if t.startAgain(again, now) {
				due.Reset(responderDelay)
			}
		}
	}
}

// noAnswer is called when a handshake got no answer within five seconds (Rekey-Timeout): the peer counts as unreachable at its
// endpoint. It sets the next one, because the WireGuard device is about to send the handshake again. It runs in the device's timer,
// so it must take no lock that is held while timers are stopped; SetEndpointFromPacket takes none.
func (t *Tunnel) noAnswer(p *device.Peer) {
	v, ok := t.byPeer.Load(p)
	if !ok {
		return
	}
	if e := v.(*peerState).rotate(); e != nil {
		t.stats.Rotations.Add(1)
		p.SetEndpointFromPacket(e)
	}
}

// replay is called when a handshake was refused because its timestamp is older than that of an earlier one: a replay, or a peer whose
// clock was set back, which would have no session until its clock has passed the earlier time.
func (t *Tunnel) replay(p *device.Peer) {
	select {
	case t.stale <- p:
	default:
	}
}

// sessionGone reports whether the session of a handshake at that time is too old to be used. A time in the future means that this
// node's clock was set back; then the session counts as gone, too.
func sessionGone(handshake time.Time) bool {
	age := time.Since(handshake)
	return handshake.IsZero() || age > sessionLifetime || age < 0
}

// markSessions records which peers have a session: backpressure counts the packets of those only. It is called at every tick of path
// MTU discovery.
func (t *Tunnel) markSessions(peers []PeerStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range peers {
		if s := t.states[p.PublicKey]; s != nil {
			s.owner.Live.Store(!t.sessionGone(p.LastHandshake))
		}
	}
}

// initiateStale initiates a handshake with a peer whose timestamps went backwards: the peer accepts it, because this node's timestamps
// did not. With a session it does nothing: then it was a replay, or the next rekey resolves it.
func (t *Tunnel) initiateStale(p *device.Peer) {
	if s, ok := t.statusOf(p); ok && t.sessionGone(s.LastHandshake) {
		t.cfg.Log.Warn("timestamp of the peer's handshake went backwards, its clock may have been set back; initiating a handshake",
			"peer", s.Name)
		_ = p.SendHandshakeInitiation(false) // the WireGuard device logs failures
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

// cross is called when a handshake response matches no initiation: when two nodes initiate handshakes at the same moment, each
// responds to the other's and drops its own, and both would wait five seconds.
func (t *Tunnel) cross(from string) {
	select {
	case t.crossings <- from:
	default:
	}
}

// retries are the handshakes to initiate again, by peer.
type retries map[*device.Peer]retry

type retry struct {
	due   time.Time // zero: done, kept to limit the rate
	last  time.Time // of the last retry
	noted time.Time // when the response arrived; a handshake completed well after it makes the retry unnecessary
}

const (
	// crossingWindow is the age up to which a session may be the result of handshakes that crossed: such a session can work in one
	// direction only.
	crossingWindow = 2 * time.Second
	// retryPause bounds the effect of forged responses on a peer: one handshake in that time.
	retryPause = 10 * time.Second
)

// noteCrossing schedules another handshake with the peer at that address: soon on the node with the lower key, and later on the other
// one, in case the first has not helped. A response that cannot belong to the present session is ignored, because any host can
// forge one.
func (t *Tunnel) noteCrossing(again retries, from string, now time.Time) {
	own := t.publicKey()
	for _, s := range t.Peers() {
		if s.Endpoint.String() != from {
			continue
		}
		p := t.lookup(s.PublicKey)
		if p == nil || !again[p].due.IsZero() || now.Sub(again[p].last) < retryPause ||
			!t.sessionGone(s.LastHandshake) && now.Sub(s.LastHandshake) > crossingWindow {
			continue
		}
		wait := responderDelay
		if bytes.Compare(own[:], s.PublicKey[:]) > 0 {
			wait *= 3
		}
		again[p] = retry{due: now.Add(wait), last: again[p].last, noted: now}
	}
}

func (t *Tunnel) lookup(key model.Key) *device.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wg == nil {
		return nil
	}
	return t.wg.LookupPeer(device.NoisePublicKey(key))
}

// startAgain carries out the retries that are due and reports whether others wait. It expires the keys, because the WireGuard device
// does not initiate a second handshake soon after the first.
func (t *Tunnel) startAgain(again retries, now time.Time) (more bool) {
	for p, r := range again {
		s, known := t.statusOf(p)
		switch {
		case !known || r.due.IsZero() && now.Sub(r.last) > retryPause:
			delete(again, p)
		case r.due.IsZero():
		case now.Before(r.due):
			more = true
		case s.LastHandshake.After(r.noted.Add(responderDelay / 2)): // the handshakes that crossed complete within milliseconds
			delete(again, p)
		default:
			again[p] = retry{last: now}
			p.ExpireCurrentKeypairs()
			_ = p.SendHandshakeInitiation(false) // the WireGuard device logs failures
		}
	}
	return more
}
