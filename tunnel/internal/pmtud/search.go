package pmtud

// Path MTU search: how large a packet the path to a peer forwards, found with probes inside the tunnel (RFC 8899, DPLPMTUD).
// The MTU of both ends' own links is where it begins. A router, another tunnel or a switch between them may forward less, and
// report that by an ICMP error that a firewall drops, or not at all.
//
// This file is the decision alone: a state machine without clock, network or randomness. prober.go sends the pairs that it requests.
//
// The search must distinguish a path that is too narrow for a size from one that loses packets. It sends pairs: a probe of the
// size in question, and a control of a size that is known to pass (the base size, later the largest size that was answered).
// The sender draws their order within the pair at random. Each pair has one of three outcomes:
//
//   - The probe is answered. The path carries its size; one answer is a proof, whatever else was lost.
//   - Neither is answered. That is loss, or a peer that does not answer: it counts for nothing.
//   - Only the control is answered. That counts against the size.
//
// A size is refused after a number n of pairs of the third kind without one of the first. While losses do not depend on the size,
// the probe and the control of a pair are interchangeable, so each pair with exactly one answer is against the size with
// probability 1/2, and n of them in a row have at most 2^-n, for every loss rate and every pattern of bursts. For independent
// losses the probability is lower. A round trip succeeds with p = (1-l)^2 where l is the loss of each direction, and a pair that
// counts is against the size with (p-p^2)/(2p-p^2) = (1-p)/(2-p):
//
//	loss of each direction            10 %      30 %      50 %     any
//	against the size, n = 16       1.8e-13    2.9e-8    1.3e-6  1.5e-5   (blackHoleProbes)
//	against the size, n = 5         1.0e-4    4.4e-3    1.4e-2  3.1e-2   (maxProbes)
//
// The first line is the probability that one search takes loss for a narrow path. The second line is per size of the search
// below a refused one, or above a known path MTU; such an error leaves the path MTU lower than necessary until the next raise.
// Losses that grow with the size shift the odds, slightly where probe and control are of similar size. Where the control is lost,
// too, nothing is decided: a path that does not carry the base size is the same to the search as one that loses large packets,
// and there is no lower path MTU to fall back to.
const (
	// blackHoleProbes refuses the size in use. RFC 8899 section 4.3 leaves the number of losses to the implementation.
	blackHoleProbes = 16
	// maxProbes refuses any other size: MAX_PROBES of RFC 8899 section 5.1.2, whose default of 3 relies on rare losses.
	maxProbes = 5
	// silentPairs without an answer end a search before the first answer: the peer does not answer.
	silentPairs = 3
	// lostPairs in a row without an answer end a search that has had one: the peer has stopped answering.
	lostPairs = 24
	// mostPairs ends a search that has decided nothing because nearly all packets are lost.
	mostPairs = 200
)

// outcome is what became of one pair.
type outcome uint8

const (
	pairLost      outcome = iota // neither probe nor control was answered
	probeLost                    // the control was answered, the probe was not
	probeAnswered                // the path carries the probe's size
)

// sizeStep is the difference of sizes in bytes. The WireGuard device pads packets to multiples of 16 (up to its own MTU), so
// sizes between them do not differ on the wire.
const sizeStep = 16

// path is what a search begins with.
type path struct {
	limit int  // bytes, the path MTU found before; 0: the path carried top
	top   int  // bytes, the smaller MTU of both ends
	floor int  // bytes, what a path must carry: the base size (BASE_PLPMTU)
	raise bool // search above limit
}

// start is the size in use.
func (p path) start() int {
	if p.limit != 0 && p.limit < p.top {
		return p.limit
	}
	return p.top
}

// searchPhase is the state of a pathSearch.
type searchPhase uint8

const (
	confirming searchPhase = iota // probes of the size in use
	raising                       // probes of top
	bisecting                     // probes between low and high
	finished
)

// pathSearch is one search. The caller sends the pair that next returns and passes its outcome to observe, until next returns
// false; then result has the path MTU.
type pathSearch struct {
	path      path
	phase     searchPhase
	low, high int // bytes: the largest size answered (or the base size), and the smallest refused
	size      int // bytes, of the probe
	against   int // pairs in which only the control was answered, for size
	pairs     int // so far
	lost      int // pairs in a row without an answer
	answers   bool
	decided   bool
	limit     int // bytes, the result

	blackHole, most int // blackHoleProbes and maxProbes; tests of the error probability use others
}

func newPathSearch(p path) *pathSearch {
	s := &pathSearch{path: p, low: p.floor, size: p.start(), limit: p.limit, blackHole: blackHoleProbes, most: maxProbes}
	if s.size <= p.floor { // the base size is in use: there is nothing below it
		s.confirmed()
	}
	return s
}

// next returns the sizes of the next pair in bytes; more is false when the search has ended.
func (s *pathSearch) next() (probe, control int, more bool) {
	return s.size, s.low, s.phase != finished
}

// result returns the path MTU in bytes, 0 for top itself; ok is false if nothing was decided.
func (s *pathSearch) result() (limit int, ok bool) { return s.limit, s.decided }

// observe moves the search on by one pair.
func (s *pathSearch) observe(o outcome) {
	s.pairs++
	if o == pairLost {
		s.lost++
	} else {
		s.lost, s.answers = 0, true
	}
	switch o {
	case probeAnswered:
		s.against = 0
		s.passed()
	case probeLost:
		s.against++
		s.refuse()
	}
	if s.phase != finished && s.exhausted() {
		s.phase = finished // undecided
	}
}

// exhausted reports whether more pairs are not worth their packets.
func (s *pathSearch) exhausted() bool {
	return s.pairs >= mostPairs || s.lost >= lostPairs || !s.answers && s.lost >= silentPairs
}

// passed continues after an answer to the probe.
func (s *pathSearch) passed() {
	switch s.phase {
	case confirming:
		s.confirmed()
	case raising:
		s.finish(0)
	case bisecting:
		s.low = s.size
		s.bisect()
	}
}

// confirmed continues when the size in use is known to pass.
func (s *pathSearch) confirmed() {
	switch start := s.path.start(); {
	case start >= s.path.top:
		s.finish(0)
	case !s.path.raise:
		s.finish(start)
	default:
		s.low, s.phase, s.size = start, raising, s.path.top
	}
}

// refuse continues after a pair that counts against the size.
func (s *pathSearch) refuse() {
	most := s.most
	if s.phase == confirming {
		most = s.blackHole
	}
	if s.against < most {
		return
	}
	s.against, s.high, s.phase = 0, s.size, bisecting
	s.bisect()
}

// bisect selects the next size between low and high.
func (s *pathSearch) bisect() {
	if s.high-s.low <= sizeStep {
		s.finish(s.low)
		return
	}
	s.size = max((s.low+s.high)/2&^(sizeStep-1), s.low+sizeStep)
}

func (s *pathSearch) finish(limit int) {
	s.phase, s.limit, s.decided = finished, limit, true
}
