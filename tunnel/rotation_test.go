package tunnel

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/internal/testutil"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// numbered is a packet from one node to the other with a number in its payload.
func numbered(n uint32, back bool) []byte {
	s := tuntest.UDP(4, 1, binary.BigEndian.AppendUint32([]byte("number"), n))
	if back {
		s.Src, s.Dst = s.Dst, s.Src
	}
	return s.Bytes()
}

// sender sends numbered packets until stop is closed, and returns their number. The WireGuard device queues 128 of them during a
// handshake: at this rate a handshake may take a quarter of a second on a busy machine.
func sender(from *node, back bool, stop <-chan struct{}) <-chan uint32 {
	sent := make(chan uint32, 1)
	go func() {
		var n uint32
		t := time.NewTicker(2 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-stop:
				sent <- n
				return
			case <-t.C:
				from.queue().Feed(packet.Vnet{}, numbered(n, back))
				n++
			}
		}
	}()
	return sent
}

// numbersOf adds the numbers of the packets that a node has received.
func numbersOf(t *testing.T, n *node, into map[uint32]bool) {
	for _, b := range segmentsOf(t, n.queue().Taken()) {
		if p := b[28:]; len(p) == 10 && string(p[:6]) == "number" {
			into[binary.BigEndian.Uint32(p[6:])] = true
		}
	}
}

// While packets flow in both directions, a node replaces its key: every packet arrives.
func TestSetPrivateKey_PacketsInBothDirections_NoneIsLost(t *testing.T) {
	binds(t, func(t *testing.T, ba, bb conn.Bind, addrA, addrB string) {
		noLeaks(t)
		a, b := twoNodes(t, ba, bb, portOf(addrA), portOf(addrB), addrA, addrB)
		settle(t, a, b)
		crossing(t, a, b)
		next := testKey(t, 9)
		nextPublic, err := PublicKey(next)
		must(t, err)
		record := a.peer("a", ipsA, addrA)
		stop := make(chan struct{})
		there, back := sender(a, false, stop), sender(b, true, stop)
		atB, atA := map[uint32]bool{}, map[uint32]bool{}
		received := func() {
			numbersOf(t, b, atB)
			numbersOf(t, a, atA)
		}
		more := func(what string) {
			t.Helper()
			wantB, wantA := len(atB)+100, len(atA)+100
			testutil.EventuallyTrue(t, what, func() bool { received(); return len(atB) >= wantB && len(atA) >= wantA })
		}
		more("packets before the rotation")
		record.NextKey = nextPublic
		must(t, b.SetPeers([]Peer{record}))
		more("packets while the next key is a standby")
		if s := b.Peers(); len(s) != 1 || s[0].PublicKey != record.PublicKey {
			t.Errorf("status before the switch: %+v", s)
		}
		must(t, a.SetPrivateKey(next))
		testutil.EventuallyTrue(t, "the move to the next key", func() bool {
			received()
			s := b.Peers()
			return len(s) == 1 && s[0].PublicKey == nextPublic && len(s[0].AllowedIPs) == len(ipsA)
		})
		more("packets with the new key")
		record.PublicKey, record.NextKey = nextPublic, model.Key{}
		must(t, b.SetPeers([]Peer{record}))
		more("packets after the old key was removed")
		if b.lookup(a.peerKeyBefore()) != nil {
			t.Error("the old key is a peer still")
		}
		close(stop)
		sentThere, sentBack := <-there, <-back
		testutil.EventuallyTrue(t, "all packets", func() bool {
			received()
			return len(atB) == int(sentThere) && len(atA) == int(sentBack)
		})
	})
}

// peerKeyBefore is the public key of the node's first private key.
func (n *node) peerKeyBefore() model.Key {
	k, _ := PublicKey(model.Key{0: 8, 5: n.cfg.Name[4] - '0', 31: 64}) // as testKey makes it; such a key is valid
	return k
}

// A peer that was not notified of the switch, such as one without a handshake since, uses the new key as soon as the record has it.
func TestSetPeers_RecordWithNewKeyOnly_TunnelWorks(t *testing.T) {
	noLeaks(t)
	n := newNetwork()
	a, b := twoNodes(t, n.bind("192.0.2.1:1"), n.bind("192.0.2.2:1"), 1, 1, "192.0.2.1:1", "192.0.2.2:1")
	settle(t, a, b)
	record := a.peer("a", ipsA, "192.0.2.1:1")
	next := testKey(t, 9)
	nextPublic, err := PublicKey(next)
	must(t, err)
	record.NextKey = nextPublic
	must(t, b.SetPeers([]Peer{record}))
	lose := func(_, to netip.AddrPort, d []byte) bool {
		return to.String() == "192.0.2.2:1" && len(d) == device.MessageInitiationSize
	}
	n.serial(&lose)
	must(t, a.SetPrivateKey(next))
	record.PublicKey, record.NextKey = nextPublic, model.Key{}
	must(t, b.SetPeers([]Peer{record}))
	b.queue().Feed(packet.Vnet{}, numbered(1, true))
	got := map[uint32]bool{}
	testutil.EventuallyTrue(t, "a packet with the new key", func() bool { numbersOf(t, a, got); return got[1] })
}

// A next key that another peer or this node has is left out, and nothing else.
func TestNormalize_NextKeyOfAnotherPeer_IsLeftOut(t *testing.T) {
	own, other := key(1), key(2)
	for name, next := range map[string]model.Key{"own": own, "another peer's": other} {
		t.Run(name, func(t *testing.T) {
			good, err := normalize([]Peer{{Name: "a", PublicKey: key(3), NextKey: next}, {Name: "b", PublicKey: other}}, own)
			if err == nil || len(good) != 2 || !good[0].NextKey.IsZero() || good[1].PublicKey != other {
				t.Errorf("%+v %v", good, err)
			}
		})
	}
}

// Only a handshake with a next key that is not in use yet moves anything; others are answered without a delay.
func TestExpand_OnlyUnusedNextKeyIsMovable(t *testing.T) {
	record := []Peer{{Name: "a", PublicKey: key(1), NextKey: key(2)}, {Name: "b", PublicKey: key(3)}}
	movable := func(moved map[model.Key]bool) (out []model.Key) {
		for _, p := range expand(record, moved) {
			if p.movable() {
				out = append(out, p.PublicKey)
			}
		}
		return out
	}
	if got := movable(nil); len(got) != 1 || got[0] != key(2) {
		t.Errorf("before the move: %v", got)
	}
	if got := movable(map[model.Key]bool{key(2): true}); len(got) != 0 {
		t.Errorf("after the move: %v", got)
	}
}
