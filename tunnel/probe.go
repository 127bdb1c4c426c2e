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

// The questions of pathmtu.go on the wire: echo requests to a peer's address inside the tunnel. The datagram that carries
// the large one goes with DF; another one goes beside it as a control, of a size that a path must carry, so that a peer
// that does not answer is not taken for a narrow path, and neither is one that is so busy that it loses packets.

const (
	smallProbe   = 64                     // bytes
	probeTries   = 4                      // probes lost, with their controls answered, before a size counts as lost
	sureTries    = 8                      // pairs before a path counts as narrower
	answerWithin = time.Second            // for the control
	leastGrace   = 100 * time.Millisecond // for the probe after the control's answer
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

// asker asks one peer.
type asker struct {
	t        *Tunnel
	src, dst netip.Addr
	floor    int    // bytes
	moved    uint64 // bytes that questions and answers took
}

// asker returns nil if the peer cannot be asked.
func (t *Tunnel) asker(p *peerState) *asker {
	a := &asker{t: t, src: t.dev.source6, dst: p.want.Probe, floor: p.floor()}
	if a.dst.Is4() {
		a.src = t.dev.source4
	}
	if !a.src.IsValid() || !a.dst.IsValid() {
		return nil
	}
	return a
}

// ask asks with the least that a path must carry as the control, and, where that is not answered either, with a small one.
func (a *asker) ask(ctx context.Context, size int) outcome {
	if size > a.floor {
		if got := a.often(ctx, size, a.floor); got != silent {
			return got
		}
	}
	return a.often(ctx, size, smallProbe)
}

func (a *asker) often(ctx context.Context, size, control int) outcome {
	for range probeTries {
		if got := a.once(ctx, size, control); got != lost {
			return got
		}
	}
	return lost
}

// sure reports whether a path really carries low and not high: of many pairs most low ones arrive and no high one does.
func (a *asker) sure(ctx context.Context, low, high int) bool {
	n := 0
	for range sureTries {
		switch a.once(ctx, high, low) {
		case arrived:
			return false
		case lost:
			n++
		}
	}
	return n >= sureTries*3/4
}

// once sends a probe and a control beside it.
func (a *asker) once(ctx context.Context, size, control int) outcome {
	d := a.t.dev
	send := func(size int, pass func(*frame)) (uint16, chan struct{}) {
		id, seq, answer := d.probes.begin()
		_ = d.inject(pass, [][]byte{packet.AppendEcho(nil, a.src, a.dst, id, seq, size)}) // lost like any other
		return seq, answer
	}
	a.moved += 2 * uint64(size+control+2*sizeStep+32)
	began := time.Now()
	seqLarge, large := send(size, d.injectProbe)
	seqSmall, small := send(control, d.injectPeer)
	defer d.whole.Store(nil)
	defer d.probes.end(seqLarge)
	defer d.probes.end(seqSmall)
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	heard := false
	for {
		select {
		case <-large:
			return arrived
		case <-small:
			heard = true
			timer.Reset(max(leastGrace, 3*time.Since(began)))
		case <-timer.C:
			if heard {
				return lost
			}
			return silent
		case <-ctx.Done():
			return silent
		}
	}
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
	a := t.asker(state)
	if a == nil {
		s.next = time.Now().Add(raiseLast)
		return
	}
	before := int(state.path.Load())
	q := path{limit: before, top: state.promised(t.dev), floor: a.floor, raise: !time.Now().Before(s.raise)}
	limit, ok := q.search(func(size int) outcome { return a.ask(ctx, size) })
	if ok && limit > a.floor && limit < q.start() {
		ok = a.sure(ctx, limit, q.start())
	}
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
