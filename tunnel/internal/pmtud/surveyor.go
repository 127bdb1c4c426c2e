// Package pmtud finds the path MTU of every peer with probes inside the tunnel (RFC 8899).
//
// It owns the ICMP echo identifier and sequence numbers of its probes, and the schedule of searches. Run is its only goroutine.
// It never changes an MTU itself: it reports the path MTU of a peer to its caller. It sends nothing to peers without a session, and
// nothing to idle ones but one search when they appear.
//
//	search.go    the decision: a state machine without clock, network or randomness
//	prober.go    pairs of probe and control on the wire, and their timers
//	echoes.go    replies to them, taken out of the packets from peers
//	surveyor.go  when a peer's path is searched
package pmtud

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// The schedule of searches.
const (
	surveyTick   = time.Second
	surveyAgain  = 15 * time.Second // while there is traffic
	surveySilent = 5 * time.Second
	raiseFirst   = 20 * time.Second // doubles after each search that finds the path still narrow
	raiseLast    = 10 * time.Minute // RFC 8899 section 5.1.1, PMTU_RAISE_TIMER
	// surveyBytes counts as traffic: TCP that gets nothing through repeats a segment three times between two searches.
	surveyBytes = 4 << 10
)

// Pace is the schedule of searches; tests use a faster one.
type Pace struct {
	Tick   time.Duration // between two looks at the peers
	Again  time.Duration // between searches while a peer has traffic
	Silent time.Duration // after a search without a result; doubles
	Raise  time.Duration // before the first search above a known path MTU; doubles
}

// DefaultPace returns the schedule for real networks.
func DefaultPace() Pace { return Pace{surveyTick, surveyAgain, surveySilent, raiseFirst} }

// Peer is a peer at one moment.
type Peer struct {
	Name          string
	PublicKey     model.Key
	Endpoint      netip.AddrPort
	LastHandshake time.Time
	Live          bool       // it has a session
	Bytes         uint64     // received and sent
	Target        netip.Addr // answers ICMP echo requests inside the tunnel; invalid: the peer is not probed
	PathMTU       int        // bytes, as last set; 0: as much as both ends
	Configured    int        // bytes, the smaller MTU of both ends
	Floor         int        // bytes, what the path must carry
}

// Config is what a Surveyor needs.
type Config struct {
	Device Device
	Echoes *Echoes
	Log    *slog.Logger
	// Source4 and Source6 are the source addresses of probes; peers of a family without one are not probed.
	Source4, Source6 netip.Addr
	Pace             Pace
	// Peers lists the peers. It is not cheap, so it is called only when Changes returns something new, or after five ticks.
	Peers func() []Peer
	// Changes counts completed handshakes, and segmented sends that the kernel refused because it learned of a lower path MTU.
	Changes func() (handshakes, refusals uint64)
	// SetPathMTU stores the path MTU of a peer in bytes, 0 for as much as both ends.
	SetPathMTU func(key model.Key, mtu int)
}

// Surveyor keeps the path MTUs of all peers up to date.
type Surveyor struct{ cfg Config }

// New returns a Surveyor; Run starts it.
func New(c Config) *Surveyor { return &Surveyor{cfg: c} }

// surveyed is the state of one peer's path.
type surveyed struct {
	endpoint   netip.AddrPort
	next       time.Time // of the next search
	raise      time.Time // of the next search above the path MTU; zero: there is none
	raiseEvery time.Duration
	handshake  time.Time
	quiet      time.Duration // before the next search for a peer that does not answer; doubles
	bytes      uint64        // at the last search
}

// due reports whether a path is to be searched: a new one at once, others while they carry traffic.
func (s *surveyed) due(p Peer, now time.Time) bool {
	if s.endpoint != p.Endpoint {
		*s = surveyed{endpoint: p.Endpoint, handshake: p.LastHandshake}
		return true
	}
	if !s.handshake.Equal(p.LastHandshake) {
		s.handshake, s.quiet = p.LastHandshake, 0
	}
	return !now.Before(s.next) && (s.bytes == 0 || p.Bytes > s.bytes+surveyBytes || !s.raise.IsZero() && !now.Before(s.raise))
}

// Run searches the paths of the peers, one after the other, until ctx ends.
func (v *Surveyor) Run(ctx context.Context) {
	known := map[model.Key]*surveyed{}
	var handshakes, refusals, idle uint64
	tick := time.NewTicker(v.cfg.Pace.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h, r := v.cfg.Changes()
		if h == handshakes && r == refusals && idle < 5 {
			idle++
			continue
		}
		if r != refusals {
			for _, s := range known {
				s.next = time.Time{}
			}
		}
		handshakes, refusals, idle = h, r, 0
		v.round(ctx, known)
	}
}

// round searches the paths that are due.
func (v *Surveyor) round(ctx context.Context, known map[model.Key]*surveyed) {
	peers := v.cfg.Peers()
	maps.DeleteFunc(known, func(k model.Key, _ *surveyed) bool {
		return !slices.ContainsFunc(peers, func(p Peer) bool { return p.PublicKey == k })
	})
	for _, p := range peers {
		if known[p.PublicKey] == nil {
			known[p.PublicKey] = &surveyed{}
		}
		if !p.Live || ctx.Err() != nil {
			continue
		}
		s := known[p.PublicKey]
		v.moved(&p, s.endpoint)
		if s.due(p, time.Now()) {
			v.survey(ctx, p, s)
		}
	}
}

// moved lowers a known path MTU when the peer's endpoint changed from IPv4 to IPv6, by the difference of the headers, until the
// new path has been searched: most likely both paths contain the narrow link.
func (v *Surveyor) moved(p *Peer, from netip.AddrPort) {
	if !from.Addr().Is4() || !p.Endpoint.Addr().Is6() || p.PathMTU == 0 || p.PathMTU >= p.Configured {
		return
	}
	const longer = 40 - 20 // IPv6's header
	p.PathMTU = max((p.PathMTU-longer)&^(sizeStep-1), p.Floor)
	v.cfg.SetPathMTU(p.PublicKey, p.PathMTU)
}

// prober returns nil if the peer cannot be probed.
func (v *Surveyor) prober(p Peer) *prober {
	a := &prober{dev: v.cfg.Device, echoes: v.cfg.Echoes, src: v.cfg.Source6, dst: p.Target, patience: answerWithin}
	if a.dst.Is4() {
		a.src = v.cfg.Source4
	}
	if !a.src.IsValid() || !a.dst.IsValid() {
		return nil
	}
	return a
}

// survey searches one path and stores the result.
func (v *Surveyor) survey(ctx context.Context, p Peer, s *surveyed) {
	a := v.prober(p)
	if a == nil {
		s.next = time.Now().Add(raiseLast)
		return
	}
	q := path{limit: p.PathMTU, top: p.Configured, floor: p.Floor, raise: !time.Now().Before(s.raise)}
	limit, ok := a.search(ctx, q)
	if !ok {
		s.quiet = min(max(2*s.quiet, v.cfg.Pace.Silent), raiseLast)
		s.next = time.Now().Add(s.quiet)
		return
	}
	s.quiet = 0
	s.next, s.bytes = time.Now().Add(v.cfg.Pace.Again), p.Bytes+a.moved
	switch {
	case limit == 0:
		s.raise, s.raiseEvery = time.Time{}, 0
	case q.raise || limit != p.PathMTU:
		s.raiseEvery = min(max(2*s.raiseEvery, v.cfg.Pace.Raise), raiseLast)
		s.raise = time.Now().Add(s.raiseEvery)
	}
	if limit != p.PathMTU {
		v.cfg.SetPathMTU(p.PublicKey, limit)
		v.report(p, limit)
	}
}

func (v *Surveyor) report(p Peer, limit int) {
	if limit == 0 {
		v.cfg.Log.Info("path MTU to the peer is restored to the MTU of both ends", "peer", p.Name, "endpoint", p.Endpoint,
			"mtu", p.Configured)
		return
	}
	v.cfg.Log.Warn("path MTU to the peer is below the MTU of both ends; sending smaller packets",
		"peer", p.Name, "endpoint", p.Endpoint, "new", limit, "mtu", p.Configured)
}
