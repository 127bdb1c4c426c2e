package tunnel

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
)

// Path MTU probes (pathmtu.go) on the wire: ICMP echo requests to a peer's address inside the tunnel. The datagram of the probe
// goes with DF; the one of the control does not.

const (
	// answerWithin is the time for the answers to a pair while no round trip has been measured.
	answerWithin = time.Second
	// leastPatience is the least time for the answers to a pair once there was one. RFC 8899 section 5.1.1 wants a second at
	// least, so that a late answer is not taken for a loss. Here a pair without answers counts for nothing.
	leastPatience = 200 * time.Millisecond
	// leastGrace is the least time for the probe's answer after the control's; a size is refused only after several.
	leastGrace = 100 * time.Millisecond
)

// When paths are asked about again.
const (
	surveyTick   = time.Second
	surveyAgain  = 15 * time.Second // while there is traffic
	surveySilent = 5 * time.Second
	raiseFirst   = 20 * time.Second // doubles with every time that the path still carries less
	raiseLast    = 10 * time.Minute // RFC 8899 5.1.1, PMTU_RAISE_TIMER
	// surveyBytes is traffic: TCP that gets nothing through repeats a segment three times in that time.
	surveyBytes = 4 << 10
)

// probes are the echo requests under way.
type probes struct {
	id   atomic.Uint32 // identifier of ours with bit 16 set; 0 before the first
	mu   sync.Mutex
	seq  uint16
	wait map[uint16]chan struct{}
}

// ours marks that probes has an identifier.
const ours = 1 << 16

// begin makes room for an answer.
func (p *probes) begin() (id, seq uint16, answer chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wait == nil {
		p.wait = map[uint16]chan struct{}{}
		p.id.Store(ours | rand.Uint32N(ours))
	}
	p.seq++
	answer = make(chan struct{}, 1)
	p.wait[p.seq] = answer
	return uint16(p.id.Load()), p.seq, answer
}

func (p *probes) end(seq uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wait, seq)
}

// lateProbes are those whose answers may still come when nobody waits for them any more.
const lateProbes = 64

// answered takes the answer to a probe out of the way of other packets.
func (p *probes) answered(pkt *packet.Packet) bool {
	id, request, ok := pkt.Echo()
	if !ok || request || ours|uint32(id) != p.id.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := pkt.EchoSequence()
	if p.seq-seq >= lateProbes {
		return false
	}
	select {
	case p.wait[seq] <- struct{}{}:
	default: // late, or twice
	}
	return true
}

// prober sends the probes of one search to one peer.
type prober struct {
	t        *Tunnel
	src, dst netip.Addr
	moved    uint64        // bytes that requests and answers took
	patience time.Duration // for the answers to a pair
}

// prober returns nil if the peer cannot be probed.
func (t *Tunnel) prober(p *peerState) *prober {
	a := &prober{t: t, src: t.dev.source6, dst: p.want.Probe, patience: answerWithin}
	if a.dst.Is4() {
		a.src = t.dev.source4
	}
	if !a.src.IsValid() || !a.dst.IsValid() {
		return nil
	}
	return a
}

// search carries out a search; ok is false if nothing was decided.
func (a *prober) search(ctx context.Context, p path) (limit int, ok bool) {
	s := newPathSearch(p)
	for {
		probe, control, more := s.next()
		if !more || ctx.Err() != nil {
			return s.result()
		}
		s.observe(a.pair(ctx, probe, control))
	}
}

// pair sends a probe and a control, in random order, and waits for the answers.
func (a *prober) pair(ctx context.Context, probe, control int) outcome {
	d := a.t.dev
	a.moved += 2 * uint64(probe+control+2*sizeStep+32)
	send := func(size int, pass func(*frame)) (uint16, chan struct{}) {
		id, seq, answer := d.probes.begin()
		_ = d.inject(pass, [][]byte{packet.AppendEcho(nil, a.src, a.dst, id, seq, size)}) // a failure is a loss
		return seq, answer
	}
	var seqProbe, seqControl uint16
	var probed, controlled chan struct{}
	began := time.Now()
	if rand.IntN(2) == 0 {
		seqProbe, probed = send(probe, d.injectProbe)
		seqControl, controlled = send(control, d.injectPeer)
	} else {
		seqControl, controlled = send(control, d.injectPeer)
		seqProbe, probed = send(probe, d.injectProbe)
	}
	defer d.whole.Store(nil)
	defer d.probes.end(seqProbe)
	defer d.probes.end(seqControl)
	timer := time.NewTimer(a.patience)
	defer timer.Stop()
	got := pairLost
	for {
		select {
		case <-probed:
			a.measured(time.Since(began))
			return probeAnswered
		case <-controlled:
			got = probeLost // unless its answer arrives within the grace
			a.measured(time.Since(began))
			timer.Reset(max(leastGrace, 3*time.Since(began)))
		case <-timer.C:
			return got
		case <-ctx.Done():
			return pairLost
		}
	}
}

// measured adapts the patience to a round trip time.
func (a *prober) measured(rtt time.Duration) {
	least := leastPatience
	if a.patience < answerWithin {
		least = a.patience // a longer round trip was measured before
	}
	a.patience = min(answerWithin, max(least, 4*rtt))
}

// surveyed is what is known of one peer's path.
type surveyed struct {
	endpoint   netip.AddrPort
	next       time.Time
	raise      time.Time // not before
	raiseEvery time.Duration
	handshake  time.Time
	quiet      time.Duration // between questions to a peer that does not answer; doubles
	bytes      uint64        // moved at the last survey
}

// due says whether a path should be asked about: a new one at once, others while they carry traffic.
func (s *surveyed) due(p PeerStatus, now time.Time) bool {
	if s.endpoint != p.Endpoint {
		*s = surveyed{endpoint: p.Endpoint, handshake: p.LastHandshake}
		return true
	}
	if s.handshake != p.LastHandshake {
		s.handshake, s.quiet = p.LastHandshake, 0
	}
	return !now.Before(s.next) && (s.bytes == 0 || p.RxBytes+p.TxBytes > s.bytes+surveyBytes || !s.raise.IsZero() && !now.Before(s.raise))
}

// surveyPaths finds out what the paths to the peers carry, one after the other, and keeps it up to date.
func (t *Tunnel) surveyPaths(ctx context.Context) {
	known := map[model.Key]*surveyed{}
	var fallbacks, handshakes, idle uint64
	tick := time.NewTicker(t.pace.tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := t.stats.handshakes.Load(); n == handshakes && t.stats.fallbacks.Load() == fallbacks && idle < 5 {
			idle++ // reading all peers' state is not free
			continue
		}
		handshakes, idle = t.stats.handshakes.Load(), 0
		if n := t.stats.fallbacks.Load(); n != fallbacks { // the kernel has heard of a narrower path
			for _, s := range known {
				s.next = time.Time{}
			}
			fallbacks = n
		}
		peers := t.Peers()
		t.noteSessions(peers)
		maps.DeleteFunc(known, func(k model.Key, _ *surveyed) bool {
			return !slices.ContainsFunc(peers, func(p PeerStatus) bool { return p.PublicKey == k })
		})
		for _, p := range peers {
			if known[p.PublicKey] == nil {
				known[p.PublicKey] = &surveyed{}
			}
			s := known[p.PublicKey]
			if sessionGone(p.LastHandshake) || ctx.Err() != nil {
				continue
			}
			t.moved(p, s.endpoint)
			if s.due(p, time.Now()) {
				t.survey(ctx, p, s)
			}
		}
	}
}

// moved makes a narrow path narrower when its datagrams have got longer headers, until the new one has been asked: most
// likely both lead over the link that is narrow.
func (t *Tunnel) moved(p PeerStatus, from netip.AddrPort) {
	if !from.Addr().Is4() || !p.Endpoint.Addr().Is6() || p.PathMTU == 0 {
		return
	}
	const longer = 40 - 20 // IPv6's header
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.states[p.PublicKey]; s != nil {
		s.path.Store(int32(max((p.PathMTU-longer)&^(sizeStep-1), s.floor())))
	}
}

// noteSessions keeps in mind which peers have one.
func (t *Tunnel) noteSessions(peers []PeerStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range peers {
		if s := t.states[p.PublicKey]; s != nil {
			s.live.Store(!sessionGone(p.LastHandshake))
		}
	}
}

// survey asks about one path and keeps the answer.
func (t *Tunnel) survey(ctx context.Context, p PeerStatus, s *surveyed) {
	t.mu.Lock()
	state := t.states[p.PublicKey]
	t.mu.Unlock()
	if state == nil {
		return
	}
	a := t.prober(state)
	if a == nil {
		s.next = time.Now().Add(raiseLast)
		return
	}
	before := int(state.path.Load())
	q := path{limit: before, top: state.promised(t.dev), floor: state.floor(), raise: !time.Now().Before(s.raise)}
	limit, ok := a.search(ctx, q)
	if !ok {
		s.quiet = min(max(2*s.quiet, t.pace.silent), raiseLast)
		s.next = time.Now().Add(s.quiet)
		return
	}
	s.quiet = 0
	s.next, s.bytes = time.Now().Add(t.pace.again), p.RxBytes+p.TxBytes+a.moved
	switch {
	case limit == 0:
		s.raise, s.raiseEvery = time.Time{}, 0
	case q.raise || limit != before:
		s.raiseEvery = min(max(2*s.raiseEvery, t.pace.raise), raiseLast)
		s.raise = time.Now().Add(s.raiseEvery)
	}
	if limit != before {
		t.setPath(p.PublicKey, limit)
		t.reportPath(p, limit, q)
	}
}

// setPath keeps what a path carries with the peer as it is wished for now.
func (t *Tunnel) setPath(key model.Key, limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.states[key]; s != nil {
		s.path.Store(int32(limit))
	}
}

func (t *Tunnel) reportPath(p PeerStatus, limit int, q path) {
	if limit == 0 {
		t.cfg.Log.Info("the path to a peer carries what both ends promise", "peer", p.Name, "endpoint", p.Endpoint, "bytes", q.top)
		return
	}
	t.cfg.Log.Warn("the path to a peer carries smaller packets than both ends promise; going on with those",
		"peer", p.Name, "endpoint", p.Endpoint, "bytes", limit, "promised", q.top)
}

// floor is what a path to the peer must carry in bytes: IPv6 cannot do with less than 1280 (RFC 8200 section 5).
func (p *peerState) floor() int {
	for _, c := range p.want.AllowedIPs {
		if c.Addr().Is6() {
			return minMTU6
		}
	}
	return minMTU
}

// surveyPace is when paths are asked about; tests are in more of a hurry.
type surveyPace struct{ tick, again, silent, raise time.Duration }
