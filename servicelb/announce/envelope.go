package announce

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// A heartbeat is authenticated by a key that only its sender and its receiver have, and is accepted once. Its wire form:
//
//	"WRNE" version(1) 0(3)  session(8) sequence(8) challenge(8) answer(8)  heartbeat or nothing  HMAC-SHA256(32)
//
// The key is derived by HKDF from the X25519 secret of both nodes' WireGuard keys. The HMAC also covers the public keys of
// sender and receiver, in this order, so that no datagram can be returned to its sender.
//
// While a node replaces its WireGuard key, the keys of both pairs are accepted.
//
// Within a session, which begins when the sender's agent starts, the sequence number rises. A session begins at a receiver only
// with the receiver's present challenge as the answer, so that a recorded datagram of an earlier session begins none. No clock
// is involved. A datagram without a heartbeat carries challenge and answer alone.
const (
	envelopeMagic     = "WRNE"
	envelopeVersion   = 1
	envelopeHeaderLen = 40
	envelopeMACLen    = sha256.Size
	maxEnvelopeLen    = envelopeHeaderLen + maxHeartbeatLen + envelopeMACLen
)

// keyContext is the info parameter of HKDF.
const keyContext = "warren load balancer heartbeat 1"

// Keys are this node's WireGuard keys.
type Keys struct {
	// Own returns the public keys: the one in use, and the one that replaces it if there is one.
	Own func() []model.Key
	// Secret returns the X25519 secret of one of them and another node's public key.
	Secret func(own, peer model.Key) ([]byte, error)
}

// keyOverlap is how long a key that was replaced is still accepted: the other node may not have the new one yet.
const keyOverlap = time.Minute

// maxPairs bounds the keys of one session.
const maxPairs = 8

// keyPair is the key of one key of this node and one of the other node.
type keyPair struct {
	own, peer model.Key
	key       []byte
	replaced  time.Time // zero: both are in use
}

// sessions authenticates the heartbeats of the other nodes. One goroutine uses it.
type sessions struct {
	keys    Keys
	own     uint64 // session of this agent
	members map[string]*session
}

// session is the exchange with one other node.
type session struct {
	addr      netip.Addr
	pairs     []keyPair // the first one is used to send
	sent      uint64    // sequence number of the last datagram to it
	challenge uint64    // what it must answer to begin a session
	answer    uint64    // its challenge
	peer      uint64    // its session; 0: none has begun
	received  uint64    // the last sequence number of that session
}

func newSessions(k Keys) *sessions {
	return &sessions{keys: k, own: randomID(), members: map[string]*session{}}
}

// randomID returns a random number that is not zero.
func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return max(binary.BigEndian.Uint64(b[:]), 1)
}

// set keeps the sessions of the nodes that are peers. It returns an error for each peer without a usable key.
func (s *sessions) set(now time.Time, peers []Peer) (errs map[string]error) {
	errs = map[string]error{}
	kept := map[string]*session{}
	for _, p := range peers {
		m := s.members[p.Name]
		if m == nil {
			m = &session{challenge: randomID()}
		}
		pairs, err := s.pairsFor(now, p, m.pairs)
		if err != nil {
			errs[p.Name] = fmt.Errorf("derive the heartbeat key of node %s: %w", p.Name, err)
			continue
		}
		m.addr, m.pairs = p.Addr, pairs
		kept[p.Name] = m
	}
	s.members = kept
	return errs
}

// pairsFor returns the keys for a peer: those in use, the first one to send with, and those that were replaced a moment ago.
func (s *sessions) pairsFor(now time.Time, p Peer, old []keyPair) (pairs []keyPair, err error) {
	find := func(list []keyPair, own, peer model.Key) int {
		return slices.IndexFunc(list, func(x keyPair) bool { return x.own == own && x.peer == peer })
	}
	for _, own := range s.keys.Own() {
		for _, peer := range [...]model.Key{p.Key, p.NextKey} {
			if peer.IsZero() && peer != p.Key || find(pairs, own, peer) >= 0 {
				continue
			}
			x := keyPair{own: own, peer: peer}
			if i := find(old, own, peer); i >= 0 {
				x.key = old[i].key
			} else if x.key, err = s.derive(own, peer); err != nil {
				return nil, err
			}
			pairs = append(pairs, x)
		}
	}
	for _, x := range old {
		if find(pairs, x.own, x.peer) >= 0 || len(pairs) >= maxPairs {
			continue
		}
		if x.replaced.IsZero() {
			x.replaced = now
		}
		if now.Sub(x.replaced) < keyOverlap {
			pairs = append(pairs, x)
		}
	}
	return pairs, nil
}

func (s *sessions) derive(own, peer model.Key) ([]byte, error) {
	secret, err := s.keys.Secret(own, peer)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, secret, nil, keyContext, sha256.Size)
}

// seal makes the datagram to a node. The body is a heartbeat, or empty. It returns nil for an unknown node.
func (s *sessions) seal(name string, body []byte) []byte {
	m := s.members[name]
	if m == nil || len(m.pairs) == 0 {
		return nil
	}
	m.sent++
	b := append(make([]byte, 0, maxEnvelopeLen), envelopeMagic...)
	b = append(b, envelopeVersion, 0, 0, 0)
	for _, x := range [...]uint64{s.own, m.sent, m.challenge, m.answer} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	b = append(b, body...)
	k := &m.pairs[0]
	return append(b, k.sum(b, k.own, k.peer)...)
}

func (k *keyPair) sum(b []byte, from, to model.Key) []byte {
	h := hmac.New(sha256.New, k.key)
	for _, part := range [...][]byte{from[:], to[:], b} {
		_, _ = h.Write(part) // it never fails
	}
	return h.Sum(nil)
}

// opened is what a datagram has brought.
type opened struct {
	from string // the sending node
	body []byte // its heartbeat; empty if there is none, or if its session has not begun
	// reply: the sender needs this node's answer to its challenge now.
	reply bool
}

// open verifies a datagram. It returns false if the datagram is not from the node with this address, or is a repetition.
func (s *sessions) open(addr netip.Addr, b []byte) (o opened, ok bool) {
	m := (*session)(nil)
	for name, x := range s.members {
		if x.addr == addr {
			o.from, m = name, x
		}
	}
	if m == nil || !isEnvelope(b) {
		return opened{}, false
	}
	signed := b[:len(b)-envelopeMACLen]
	genuine := func(k keyPair) bool { return hmac.Equal(k.sum(signed, k.peer, k.own), b[len(signed):]) }
	if !slices.ContainsFunc(m.pairs, genuine) {
		return opened{}, false
	}
	var n [4]uint64
	for i := range n {
		n[i] = binary.BigEndian.Uint64(b[8+8*i:])
	}
	id, seq, challenge, answer := n[0], n[1], n[2], n[3]
	switch {
	case id == m.peer && seq <= m.received:
		return opened{}, false
	case id == m.peer:
	case answer != m.challenge:
		m.answer = challenge
		return opened{from: o.from, reply: true}, true
	default:
		m.peer, m.challenge, o.reply = id, randomID(), true
	}
	m.received, m.answer, o.body = seq, challenge, signed[envelopeHeaderLen:]
	return o, true
}

// isEnvelope reports whether a datagram has the form of one.
func isEnvelope(b []byte) bool {
	return len(b) >= envelopeHeaderLen+envelopeMACLen && len(b) <= maxEnvelopeLen && string(b[:4]) == envelopeMagic &&
		b[4] == envelopeVersion
}
