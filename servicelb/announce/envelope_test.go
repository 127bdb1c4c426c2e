package announce

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
)

var start = time.Now()

// endpointOf is one node of the tests: its sessions, address and keys.
type endpointOf struct {
	*sessions
	name string
	addr netip.Addr
	priv []*ecdh.PrivateKey // the one in use, then the one that replaces it
}

func newEndpoint(t testing.TB, name, addr string) *endpointOf {
	t.Helper()
	e := &endpointOf{name: name, addr: netip.MustParseAddr(addr), priv: []*ecdh.PrivateKey{newPrivate(t)}}
	e.restart()
	return e
}

// restart begins a new session, as an agent does that starts.
func (e *endpointOf) restart() {
	e.sessions = newSessions(Keys{Own: e.own, Secret: func(own, peer model.Key) ([]byte, error) {
		k, err := ecdh.X25519().NewPublicKey(peer[:])
		if err != nil {
			return nil, err
		}
		for _, private := range e.priv {
			if model.Key(private.PublicKey().Bytes()) == own {
				return private.ECDH(k)
			}
		}
		return nil, fmt.Errorf("no private key of %s", own)
	}})
}

func (e *endpointOf) own() (out []model.Key) {
	for _, private := range e.priv {
		out = append(out, model.Key(private.PublicKey().Bytes()))
	}
	return out
}

// peer is the node as its record has it.
func (e *endpointOf) peer() Peer {
	p := Peer{Name: e.name, Addr: e.addr, Key: e.own()[0]}
	if len(e.priv) > 1 {
		p.NextKey = e.own()[1]
	}
	return p
}

func newPrivate(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// exchange passes a datagram and the replies that it causes, and returns the heartbeat that arrived.
func exchange(t testing.TB, from, to *endpointOf, raw []byte) (body []byte, accepted bool) {
	t.Helper()
	o, ok := to.open(from.addr, raw)
	body, accepted = o.body, ok && len(o.body) > 0
	for range 8 {
		if !o.reply {
			return body, accepted
		}
		from, to = to, from
		if o, ok = to.open(from.addr, from.seal(to.name, nil)); !ok {
			return body, accepted
		}
	}
	t.Fatal("the replies do not end")
	return nil, false
}

func twoNodes(t testing.TB) (a, b *endpointOf) {
	a, b = newEndpoint(t, "a", "10.42.0.1"), newEndpoint(t, "b", "10.42.1.1")
	a.set(start, []Peer{b.peer()})
	b.set(start, []Peer{a.peer()})
	return a, b
}

// The first heartbeat begins the sessions of both nodes; from then on each one is accepted, once, also after losses.
func TestSessions_Heartbeats_AcceptedOnce(t *testing.T) {
	a, b := twoNodes(t)
	exchange(t, a, b, a.seal("b", []byte("first")))
	for i := range 5 {
		lost := a.seal("b", []byte("lost"))
		raw := a.seal("b", []byte("heartbeat"))
		if body, ok := exchange(t, a, b, raw); !ok || string(body) != "heartbeat" {
			t.Errorf("heartbeat %d: accepted %v, %q", i, ok, body)
		}
		if _, ok := exchange(t, a, b, raw); ok {
			t.Error("a repetition was accepted")
		}
		if _, ok := exchange(t, a, b, lost); ok {
			t.Error("an overtaken datagram was accepted")
		}
	}
	if body, ok := exchange(t, b, a, b.seal("a", []byte("other direction"))); !ok || string(body) != "other direction" {
		t.Errorf("the other direction: %v %q", ok, body)
	}
}

// Datagrams that were recorded begin no session, neither after the sender nor after the receiver has restarted.
func TestSessions_RecordedDatagrams_Refused(t *testing.T) {
	a, b := twoNodes(t)
	var recorded [][]byte
	send := func(text string) bool {
		raw := a.seal("b", []byte(text))
		recorded = append(recorded, slices.Clone(raw))
		_, ok := exchange(t, a, b, raw)
		return ok
	}
	replay := func(when string) {
		t.Helper()
		for i, raw := range recorded {
			if o, ok := b.open(a.addr, raw); ok && len(o.body) > 0 {
				t.Errorf("%s: recorded datagram %d was accepted: %q", when, i, o.body)
			}
		}
	}
	for range 5 {
		send("one")
	}
	replay("same sessions")
	a.restart()
	a.set(start, []Peer{b.peer()})
	replay("sender restarted, before its first datagram")
	send("two")
	if !send("two") {
		t.Error("the restarted sender is not accepted")
	}
	replay("sender restarted")
	if !send("three") {
		t.Error("replays have stopped the session")
	}
	b.restart()
	b.set(start, []Peer{a.peer()})
	replay("receiver restarted")
	send("four")
	if !send("four") {
		t.Error("not accepted by the restarted receiver")
	}
}

// A heartbeat cannot be made without one of the two private keys, also by no other node of the cluster.
func TestSessions_ForgedDatagrams_Refused(t *testing.T) {
	a, b := twoNodes(t)
	exchange(t, a, b, a.seal("b", []byte("first")))
	c := newEndpoint(t, "c", "10.42.2.1")
	c.set(start, []Peer{b.peer()})
	b.set(start, []Peer{a.peer(), c.peer()})
	if _, ok := b.open(a.addr, c.seal("b", []byte("as a"))); ok {
		t.Error("another node's datagram from this address was accepted")
	}
	raw := a.seal("b", []byte("genuine"))
	for i := range raw {
		forged := slices.Clone(raw)
		forged[i] ^= 1
		if _, ok := b.open(a.addr, forged); ok {
			t.Errorf("accepted with byte %d changed", i)
		}
		if _, ok := b.open(a.addr, raw[:i]); ok {
			t.Errorf("accepted with %d bytes", i)
		}
	}
	if _, ok := a.open(b.addr, raw); ok {
		t.Error("a node accepted its own datagram")
	}
	if _, ok := b.open(netip.MustParseAddr("10.42.9.1"), raw); ok {
		t.Error("accepted from an unknown address")
	}
	if _, ok := exchange(t, a, b, raw); !ok {
		t.Error("the genuine datagram is not accepted after the forged ones")
	}
	plain := heartbeat{started: 1 << 62, seq: 1 << 62, claims: []claim{{v4, 1<<64 - 1}}, total: 1}
	if _, ok := b.open(a.addr, plain.encode()); ok {
		t.Error("a heartbeat without authentication was accepted")
	}
}

// A node replaces its key while heartbeats continue: no order in which both nodes learn of the steps loses one. The replaced key is
// accepted for keyOverlap.
func TestSessions_KeyReplaced_NoHeartbeatLost(t *testing.T) {
	a, b := twoNodes(t)
	exchange(t, a, b, a.seal("b", []byte("first")))
	old, now := a.seal("b", []byte("recorded")), start
	both := func(step string) {
		t.Helper()
		if body, ok := exchange(t, a, b, a.seal("b", []byte("ab"))); !ok || !bytes.Equal(body, []byte("ab")) {
			t.Errorf("%s: a to b is lost", step)
		}
		if body, ok := exchange(t, b, a, b.seal("a", []byte("ba"))); !ok || !bytes.Equal(body, []byte("ba")) {
			t.Errorf("%s: b to a is lost", step)
		}
	}
	both("before")
	a.priv = append(a.priv, newPrivate(t))
	b.set(now, []Peer{a.peer()})
	both("b has the next key")
	a.set(now, []Peer{b.peer()})
	both("both have the next key")
	a.priv = a.priv[1:]
	a.set(now, []Peer{b.peer()})
	both("a has switched")
	b.set(now, []Peer{a.peer()})
	both("b has the new record")
	now = now.Add(keyOverlap)
	b.set(now, []Peer{a.peer()})
	a.set(now, []Peer{b.peer()})
	both("after the overlap")
	if n := len(b.members["a"].pairs) + len(a.members["b"].pairs); n != 2 {
		t.Errorf("%d keys are kept", n)
	}
	if _, ok := b.open(a.addr, old); ok {
		t.Error("a datagram with the replaced key was accepted")
	}
}

// A peer without a usable key is reported and gets no datagram.
func TestSessions_ZeroKey_Reported(t *testing.T) {
	_, b := twoNodes(t)
	if errs := b.set(start, []Peer{{Name: "z", Addr: v4}}); errs["z"] == nil || b.seal("z", nil) != nil {
		t.Error("a zero key is not refused")
	}
}

// The largest heartbeat passes a tunnel with the smallest MTU.
func TestEnvelope_LargestHeartbeat_FitsMTU(t *testing.T) {
	if maxEnvelopeLen > 1280-48 {
		t.Errorf("%d bytes", maxEnvelopeLen)
	}
}

// An epoch never overflows, so that no claim is too high to be won over by rank.
func TestCore_HighestEpoch_Saturates(t *testing.T) {
	c := newCore("n", Timing{}, time.Now())
	c.set(time.Now(), electorate{addresses: []Address{{Addr: v4}}, peers: []Peer{{Name: "m", Addr: netip.MustParseAddr("10.42.1.1")}}})
	c.receive(time.Now(), netip.MustParseAddr("10.42.1.1"), heartbeat{started: 1, seq: 1, macs: []mac{otherMAC},
		claims: []claim{{v4, 1<<64 - 1}}, total: 1})
	a := c.addresses[v4]
	if a.highestEpoch != maxEpoch || c.members["m"].claims[v4].epoch != maxEpoch {
		t.Errorf("highest epoch %d, claim %+v", a.highestEpoch, c.members["m"].claims[v4])
	}
	if next := nextEpoch(a.highestEpoch); next != maxEpoch {
		t.Errorf("the next epoch is %d", next)
	}
	if next := nextEpoch(7); next != 8 {
		t.Errorf("the next epoch after 7 is %d", next)
	}
}

func FuzzSessionsOpen(f *testing.F) {
	a, b := twoNodes(f)
	f.Add(a.seal("b", []byte("x")))
	f.Add([]byte(envelopeMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if o, ok := b.open(a.addr, raw); ok && len(o.body) > maxHeartbeatLen {
			t.Errorf("%d bytes", len(o.body))
		}
	})
}
