package pmtud

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/warrennet/warren/internal/packet"
)

const (
	// answerWithin is the time for the answers to a pair while no round trip has been measured.
	answerWithin = time.Second
	// leastPatience is the least time for the answers to a pair once there was one. RFC 8899 section 5.1.1 demands at least a second,
	// so that a late answer is not taken for a loss. Here a pair without answers counts for nothing.
	leastPatience = 200 * time.Millisecond
	// leastGrace is the least time for the probe's answer after the control's; a size is refused only after several pairs.
	leastGrace = 100 * time.Millisecond
)

// Device sends ICMP echo requests to the peers that own their destinations.
type Device interface {
	// InjectProbe sends a request whose datagram has DF.
	InjectProbe(pkt []byte) error
	// EndProbe forgets the last probe.
	EndProbe()
	// InjectPeer sends packets whose datagrams may be fragmented.
	InjectPeer(pkts ...[]byte) error
}

// prober sends the pairs of one search to one peer.
type prober struct {
	dev      Device
	echoes   *Echoes
	src, dst netip.Addr
	moved    uint64        // bytes of requests and answers
	patience time.Duration // for the answers to a pair
}

// search carries out a search; ok is false if nothing was decided.
func (p *prober) search(ctx context.Context, begin path) (limit int, ok bool) {
	s := newPathSearch(begin)
	for {
		probe, control, more := s.next()
		if !more || ctx.Err() != nil {
			return s.result()
		}
		s.observe(p.pair(ctx, probe, control))
	}
}

// request makes one echo request.
func (p *prober) request(size int) (pkt []byte, seq uint16, answer chan struct{}) {
	id, seq, answer := p.echoes.begin(p.dst)
	return packet.AppendEcho(nil, p.src, p.dst, id, seq, size), seq, answer
}

// sendProbe sends an echo request whose datagram has DF. A failure counts as a loss.
func (p *prober) sendProbe(size int) (seq uint16, answer chan struct{}) {
	pkt, seq, answer := p.request(size)
	_ = p.dev.InjectProbe(pkt)
	return seq, answer
}

// sendControl sends an echo request whose datagram may be fragmented. A failure counts as a loss.
func (p *prober) sendControl(size int) (seq uint16, answer chan struct{}) {
	pkt, seq, answer := p.request(size)
	_ = p.dev.InjectPeer(pkt)
	return seq, answer
}

// pair sends a probe and a control, in random order, and waits for the answers.
func (p *prober) pair(ctx context.Context, probe, control int) outcome {
	p.moved += 2 * uint64(probe+control+2*sizeStep+32)
	var seqProbe, seqControl uint16
	var probed, controlled chan struct{}
	began := time.Now()
	if rand.IntN(2) == 0 {
		seqProbe, probed = p.sendProbe(probe)
		seqControl, controlled = p.sendControl(control)
	} else {
		seqControl, controlled = p.sendControl(control)
		seqProbe, probed = p.sendProbe(probe)
	}
	defer p.dev.EndProbe()
	defer p.echoes.end(seqProbe)
	defer p.echoes.end(seqControl)
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	got := pairLost
	for {
		select {
		case <-probed:
			p.measured(time.Since(began))
			return probeAnswered
		case <-controlled:
			got = probeLost // unless the probe's answer arrives within the grace
			p.measured(time.Since(began))
			timer.Reset(max(leastGrace, 3*time.Since(began)))
		case <-timer.C:
			return got
		case <-ctx.Done():
			return pairLost
		}
	}
}

// measured adapts the patience to a round trip time; it keeps the longest.
func (p *prober) measured(rtt time.Duration) {
	least := leastPatience
	if p.patience < answerWithin {
		least = p.patience
	}
	p.patience = min(answerWithin, max(least, 4*rtt))
}
