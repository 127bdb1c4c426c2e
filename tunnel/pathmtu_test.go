package tunnel

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/internal/testutil"
	"github.com/warrennet/warren/tunnel/internal/pmtud"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
)

// answerEcho is a host that answers echo requests, as kernels do.
type answerEcho struct {
	silent             atomic.Bool
	answered, withheld atomic.Int64 // echo requests; withheld while silent
}

func (*answerEcho) Outbound(*packet.Packet) packet.Verdict { return packet.VerdictPeer }

func (h *answerEcho) Inbound(p *packet.Packet) packet.Verdict {
	id, request, ok := p.Echo()
	if !ok || !request {
		return packet.VerdictReflect
	}
	if h.silent.Load() {
		h.withheld.Add(1)
		return packet.VerdictReflect
	}
	h.answered.Add(1)
	b := packet.AppendEcho(nil, p.Dst, p.Src, id, p.EchoSequence(), p.Length)
	head := 20
	if p.Version == 6 {
		head = 40
	}
	b[head] = map[uint8]byte{4: 0, 6: 129}[p.Version]
	var q packet.Packet
	if q.Parse(b) != packet.OK {
		return packet.VerdictDrop
	}
	q.FixChecksum()
	if !p.Become(b) {
		return packet.VerdictDrop
	}
	return packet.VerdictReply
}

// narrow is a network between two nodes that drops datagrams above a size without an ICMP error.
func narrow(t *testing.T, six bool, echo *answerEcho) (a *node, n *network, carries *atomic.Int64) {
	n, carries = newNetwork(), &atomic.Int64{}
	carries.Store(65535)
	lose := func(_, _ netip.AddrPort, b []byte) bool { return int64(len(b)) > carries.Load() }
	n.lose.Store(&lose)
	quick := func(c *Config, p *parts) {
		p.pace = pmtud.Pace{Tick: 5 * time.Millisecond, Again: 20 * time.Millisecond, Silent: 10 * time.Millisecond,
			Raise: 30 * time.Millisecond}
		c.Source4, c.Source6 = netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("fd42::1")
	}
	a = startNode(t, 1, n.bind("192.0.2.1:1"), 1, echo, quick)
	b := startNode(t, 2, n.bind("192.0.2.2:1"), 1, echo, quick)
	pa, pb := a.peer("a", ipsA, "192.0.2.1:1"), b.peer("b", ipsB, "192.0.2.2:1")
	pb.Probe = netip.MustParseAddr("10.42.1.1")
	if six {
		pb.Probe = netip.MustParseAddr("fd42:0:0:1::1")
	}
	must(t, a.SetPeers([]Peer{pb}))
	must(t, b.SetPeers([]Peer{pa}))
	settle(t, a, b)
	return a, n, carries
}

func (n *node) pathMTU() (mtu, path int) {
	p := n.Peers()[0]
	return p.MTU, p.PathMTU
}

// A narrow path is found, kept when the peers are set again, and raised when the path carries everything again.
func TestPathMTU_NarrowPath_IsFoundAndRaised(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			a, _, carries := narrow(t, six, &answerEcho{})
			carries.Store(1400) // an inner packet of 1,368 and 32 bytes of WireGuard
			keepBusy(t, a)
			testutil.EventuallyTrue(t, "the narrow path", func() bool { mtu, path := a.pathMTU(); return mtu == 1360 && path == 1360 })
			want := a.Tunnel.want[0]
			want.Keepalive = 25 * time.Second
			must(t, a.SetPeers([]Peer{want}))
			if !a.states[want.PublicKey].owner.Live.Load() {
				t.Error("after a change of the peer: without a session")
			}
			if mtu, _ := a.pathMTU(); mtu != 1360 {
				t.Errorf("after a change of the peer: %d bytes, expected 1360", mtu)
			}
			carries.Store(65535)
			testutil.EventuallyTrue(t, "the whole path", func() bool { mtu, path := a.pathMTU(); return mtu == 1420 && path == 0 })
		})
	}
}

// A narrow path that loses a tenth of all packets in each direction is found, too, and never taken for narrower than it is by
// more than the search's stated error.
func TestPathMTU_NarrowPathWithLoss_IsFound(t *testing.T) {
	noLeaks(t)
	a, n, _ := narrow(t, false, &answerEcho{})
	n.serial(dropShare(0.1, 1400))
	keepBusy(t, a)
	testutil.EventuallyTrue(t, "the narrow path", func() bool {
		mtu, path := a.pathMTU()
		return mtu == path && path >= 1280 &&
			path <= 1360
	})
}

// dropShare returns a filter, seeded, that loses a share of all datagrams but those of handshakes, and all that are larger than
// the path carries.
func dropShare(share float64, carries int) *func(_, _ netip.AddrPort, b []byte) bool {
	rng := rand.New(rand.NewPCG(1, 2))
	f := func(_, _ netip.AddrPort, b []byte) bool {
		return len(b) > carries || len(b) > 200 && rng.Float64() < share
	}
	return &f
}

// keepBusy moves packets until the test ends: idle paths are not probed.
func keepBusy(t *testing.T, a *node) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
				s := tuntest.UDP(4, 1, tuntest.Pattern(20000))
				a.queue().Feed(s.Super(1200))
			}
		}
	}()
	t.Cleanup(func() { close(end); <-done })
}

// A peer that answers no echo request keeps the MTU of both ends. The host receives no answer to a probe.
func TestPathMTU_PeerAnswersNoProbe_KeepsBothEndsMTU(t *testing.T) {
	noLeaks(t)
	h := &answerEcho{}
	h.silent.Store(true)
	a, _, carries := narrow(t, false, h)
	carries.Store(1400)
	// Three pairs without an answer end a search, so after five requests the first search has ended, whichever of them arrived.
	testutil.EventuallyTrue(t, "five unanswered echo requests", func() bool { return h.withheld.Load() >= 5 })
	if mtu, path := a.pathMTU(); mtu != 1420 || path != 0 {
		t.Errorf("%d bytes, path %d: expected no result", mtu, path)
	}
	h.silent.Store(false)
	testutil.EventuallyTrue(t, "the narrow path", func() bool { mtu, _ := a.pathMTU(); return mtu == 1360 })
	for _, b := range a.queue().Taken() {
		var p packet.Packet
		if p.Parse(b[packet.VnetLen:]) == packet.OK {
			if _, _, echo := p.Echo(); echo {
				t.Errorf("the host received an answer to a probe")
			}
		}
	}
}

// A network that loses half of the packets in each direction is not taken for a narrow path. The error probability is 1.3e-6 for
// each of the few searches that the time allows; the searches themselves are tested in pmtud.
func TestPathMTU_HalfOfAllPacketsLost_IsNoNarrowPath(t *testing.T) {
	noLeaks(t)
	h := &answerEcho{}
	a, n, _ := narrow(t, false, h)
	n.serial(dropShare(0.5, 65535))
	keepBusy(t, a)
	before := h.answered.Load()
	// At most two echo requests of each pair arrive. Eight are enough pairs for a result, however long they take.
	testutil.EventuallyTrue(t, "eight echo requests", func() bool {
		if mtu, path := a.pathMTU(); mtu != 1420 || path != 0 {
			t.Fatalf("%d bytes, path %d, on a network that loses packets of all sizes", mtu, path)
		}
		return h.answered.Load()-before >= 8
	})
}
