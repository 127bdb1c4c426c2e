package pmtud

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// simulated is a path of a simulated network with an echo responder at its end.
type simulated struct {
	rng     *rand.Rand
	carries int                                  // bytes
	loses   func(*rand.Rand, float64) float64    // next loss probability; nil: loss
	loss    float64                              // of each direction
	survive func(loss float64, size int) float64 // nil: 1-loss, whatever the size
	state   float64
}

// passes reports whether one packet of that size arrives.
func (n *simulated) passes(size int) bool {
	loss := n.loss
	if n.loses != nil {
		n.state = n.loses(n.rng, n.state)
		loss = n.state
	}
	ok := 1 - loss
	if n.survive != nil {
		ok = n.survive(loss, size)
	}
	return n.rng.Float64() < ok && size <= n.carries
}

// pair answers a pair as prober.pair does, without its timers.
func (n *simulated) pair(probe, control int) outcome {
	first, second := probe, control
	swapped := n.rng.IntN(2) == 1
	if swapped {
		first, second = control, probe
	}
	a, b := n.passes(first), n.passes(second)
	a, b = a && n.passes(first), b && n.passes(second) // the answers
	if swapped {
		a, b = b, a
	}
	switch {
	case a:
		return probeAnswered
	case b:
		return probeLost
	}
	return pairLost
}

// run carries out a search, and returns its result with the number of pairs and the time that the timers of prober.pair would
// have taken on a path without delay.
func (n *simulated) run(s *pathSearch) (limit int, ok bool, pairs int, took time.Duration) {
	patience := answerWithin
	for {
		probe, control, more := s.next()
		if !more {
			limit, ok = s.result()
			return limit, ok, pairs, took
		}
		pairs++
		o := n.pair(probe, control)
		switch o {
		case pairLost:
			took += patience
		case probeLost:
			took += leastGrace
			patience = leastPatience
		default:
			patience = leastPatience
		}
		s.observe(o)
	}
}

// wrongRefusal is the probability that n pairs refuse a size which the path carries, with independent losses of that
// probability in each direction.
func wrongRefusal(loss float64, n int) float64 {
	p := (1 - loss) * (1 - loss)
	return math.Pow((1-p)/(2-p), float64(n))
}

// The constants keep the error probabilities that search.go states.
func TestPathSearch_Constants_KeepTheStatedErrorProbability(t *testing.T) {
	for _, c := range []struct {
		loss  float64
		pairs int
		most  float64
	}{
		{0.1, blackHoleProbes, 1.8e-13}, {0.3, blackHoleProbes, 2.9e-8}, {0.5, blackHoleProbes, 1.3e-6}, {1, blackHoleProbes, 1.53e-5},
		{0.1, maxProbes, 1.05e-4}, {0.3, maxProbes, 4.4e-3}, {0.5, maxProbes, 1.45e-2}, {1, maxProbes, 3.13e-2},
	} {
		t.Run(fmt.Sprintf("loss %v, %d pairs", c.loss, c.pairs), func(t *testing.T) {
			if got := wrongRefusal(c.loss, c.pairs); got > c.most {
				t.Errorf("%.3g, stated %.3g", got, c.most)
			}
		})
	}
}

// bursts is loss in bursts of about 20 packets in which everything is lost, between times without loss (Gilbert, 1960).
func bursts(share float64) func(*rand.Rand, float64) float64 {
	const leave = 1.0 / 20
	enter := leave * share / (1 - share)
	return func(rng *rand.Rand, state float64) float64 {
		switch r := rng.Float64(); {
		case state == 0 && r < enter:
			return 1
		case state == 1 && r < leave:
			return 0
		}
		return state
	}
}

// Loss is taken for a narrow path as rarely as stated. The stated probability is too small to be measured for the constants in
// use, so the formula is measured with fewer pairs, and the constants have to stay without an error in all runs.
func TestPathSearch_LossOnAWholePath_IsNoNarrowPath(t *testing.T) {
	const runs = 20000
	for _, c := range []struct {
		name string
		loss float64
		net  func(*simulated)
		most func(n int) float64 // error probability with n pairs
		same bool                // most is exact
	}{
		{"10 % loss", 0.1, nil, func(n int) float64 { return wrongRefusal(0.1, n) }, true},
		{"30 % loss", 0.3, nil, func(n int) float64 { return wrongRefusal(0.3, n) }, true},
		{"50 % loss", 0.5, nil, func(n int) float64 { return wrongRefusal(0.5, n) }, true},
		{"90 % loss", 0.9, nil, func(n int) float64 { return wrongRefusal(0.9, n) }, false},
		{"30 % loss in bursts", 0, func(n *simulated) { n.loses = bursts(0.3) }, func(n int) float64 { return math.Pow(2, -float64(n)) },
			false},
		{"50 % loss in bursts", 0, func(n *simulated) { n.loses = bursts(0.5) }, func(n int) float64 { return math.Pow(2, -float64(n)) },
			false},
		{"bit errors, 30 % loss of 1280 bytes", 0.3, func(n *simulated) {
			n.survive = func(loss float64, size int) float64 { return math.Pow(1-loss, float64(size)/1280) }
		}, func(n int) float64 { return math.Pow(0.4, float64(n)) }, false},
		{"only packets above 200 bytes are lost, half of them", 0.5, func(n *simulated) {
			n.survive = func(loss float64, size int) float64 {
				if size <= 200 {
					return 1
				}
				return 1 - loss
			}
		}, func(n int) float64 { return wrongRefusal(0.5, n) }, true},
	} {
		for _, pairs := range []int{1, 2, 4, blackHoleProbes} {
			t.Run(fmt.Sprintf("%s, %d pairs", c.name, pairs), func(t *testing.T) {
				wrong, undecided := 0, 0
				for seed := range uint64(runs) {
					n := &simulated{rng: rand.New(rand.NewPCG(seed, uint64(pairs))), carries: 65535, loss: c.loss}
					if c.net != nil {
						c.net(n)
					}
					s := newPathSearch(path{top: 1420, floor: 1280})
					s.blackHole = pairs
					limit, ok, _, _ := n.run(s)
					switch {
					case !ok:
						undecided++
					case limit != 0:
						wrong++
					}
				}
				decided := float64(runs - undecided)
				want := c.most(pairs) * decided
				slack := 4*math.Sqrt(want) + 1
				if pairs == blackHoleProbes {
					slack = 0.5 // none at all
				}
				if float64(wrong) > want+slack {
					t.Errorf("%d of %.0f searches took loss for a narrow path, expected at most %.1f", wrong, decided, want+slack)
				}
				if c.same && pairs < 4 && float64(wrong) < 0.5*want-slack {
					t.Errorf("%d of %.0f searches took loss for a narrow path, expected %.1f: the simulated network does not match the "+
						"formula",
						wrong, decided, want)
				}
				t.Logf("%d wrong, %d undecided of %d", wrong, undecided, runs)
			})
		}
	}
}

// A narrow path is found in seconds, under loss in a few searches, and then the result is never larger than the path carries and
// seldom smaller than necessary.
func TestPathSearch_NarrowPathWithLoss_IsFound(t *testing.T) {
	const runs = 3000
	for _, c := range []struct {
		loss  float64
		found float64       // least share of searches with a result
		exact float64       // least share of results that are as large as the path
		took  time.Duration // most, on average, for a search with a result
	}{
		{0, 1, 1, 2500 * time.Millisecond},
		{0.1, 0.99, 0.99, 5 * time.Second},
		{0.3, 0.85, 0.97, 12 * time.Second},
		{0.5, 0.4, 0.9, 30 * time.Second},
	} {
		t.Run(fmt.Sprintf("loss %v", c.loss), func(t *testing.T) {
			found, exact := 0, 0
			var total time.Duration
			for seed := range uint64(runs) {
				rng := rand.New(rand.NewPCG(seed, 1))
				n := &simulated{rng: rng, carries: 1280 + rng.IntN(140), loss: c.loss}
				limit, ok, _, took := n.run(newPathSearch(path{top: 1420, floor: 1280}))
				switch {
				case !ok:
					continue
				case limit == 0 || limit > n.carries:
					t.Fatalf("seed %d: %d bytes on a path of %d", seed, limit, n.carries)
				case limit+2*sizeStep > n.carries:
					exact++
				}
				found++
				total += took
			}
			mean := total / time.Duration(max(found, 1))
			t.Logf("%d found of %d, %d of them exact, %v on average", found, runs, exact, mean)
			if float64(found) < c.found*runs {
				t.Errorf("%d of %d searches found the narrow path, expected %.0f %%", found, runs, 100*c.found)
			}
			if float64(exact) < c.exact*float64(found) {
				t.Errorf("%d of %d results are as large as the path, expected %.0f %%", exact, found, 100*c.exact)
			}
			if mean > c.took {
				t.Errorf("%v on average, expected at most %v", mean, c.took)
			}
		})
	}
}

func TestPathSearch_NoLoss_FindsWhatThePathCarries(t *testing.T) {
	for _, tc := range []struct {
		name    string
		p       path
		carries int
		want    int
		ok      bool
		sizes   int // most, of different probes
	}{
		{"as promised", path{top: 1420, floor: 1280}, 1420, 0, true, 1},
		{"PPPoE", path{top: 1420, floor: 1280}, 1412, 1408, true, 5},
		{"another tunnel", path{top: 1420, floor: 1280}, 1340, 1328, true, 5},
		{"one byte less", path{top: 1420, floor: 1280}, 1419, 1408, true, 5},
		{"the base size", path{top: 1420, floor: 1280}, 1280, 1280, true, 5},
		{"less than the base size", path{top: 1420, floor: 1280}, 1000, 0, false, 1},
		{"jumbo frames at both ends, Ethernet between", path{top: 8920, floor: 1280}, 1420, 1408, true, 11},
		{"known and unchanged", path{limit: 1328, top: 1420, floor: 1280}, 1340, 1328, true, 1},
		{"known and worse", path{limit: 1328, top: 1420, floor: 1280}, 1300, 1296, true, 4},
		{"known and restored", path{limit: 1328, top: 1420, floor: 1280, raise: true}, 1420, 0, true, 2},
		{"known and better", path{limit: 1328, top: 1420, floor: 1280, raise: true}, 1400, 1392, true, 6},
		{"base size in use, restored", path{limit: 1280, top: 1420, floor: 1280, raise: true}, 1420, 0, true, 1},
		{"base size in use, unchanged", path{limit: 1280, top: 1420, floor: 1280}, 1280, 1280, true, 0},
		{"a limit above both ends' MTU", path{limit: 1400, top: 1360, floor: 1280}, 1360, 0, true, 1},
		{"an MTU of the base size", path{top: 1280, floor: 1280}, 1000, 0, true, 0},
		{"IPv4 below 1280", path{top: 1420, floor: 576}, 700, 688, true, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &simulated{rng: rand.New(rand.NewPCG(1, 2)), carries: tc.carries}
			sizes := map[int]bool{}
			s := newPathSearch(tc.p)
			for probe, control, more := s.next(); more; probe, control, more = s.next() {
				sizes[probe] = true
				s.observe(n.pair(probe, control))
			}
			got, ok := s.result()
			if got != tc.want || ok != tc.ok || len(sizes) > tc.sizes {
				t.Errorf("%d bytes (ok %v) with probes of %d sizes, expected %d (ok %v) with at most %d", got, ok, len(sizes), tc.want,
					tc.ok, tc.sizes)
			}
		})
	}
}

// A peer that stops answering at any moment leaves the known path MTU unchanged, and ends the search soon.
func TestPathSearch_PeerStopsAnswering_KeepsThePathMTU(t *testing.T) {
	for after := range 40 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			n := &simulated{rng: rand.New(rand.NewPCG(1, 2)), carries: 1400}
			s, pairs := newPathSearch(path{limit: 1328, top: 1420, floor: 1280, raise: true}), 0
			for probe, control, more := s.next(); more; probe, control, more = s.next() {
				o := pairLost
				if pairs < after {
					o = n.pair(probe, control)
				}
				pairs++
				s.observe(o)
			}
			got, ok := s.result()
			if !ok && (got != 1328 || pairs > after+lostPairs) || ok && pairs > after {
				t.Errorf("silent after %d pairs: %d, ok %v, after %d pairs", after, got, ok, pairs)
			}
		})
	}
}

// Whatever the path, the result passes, and nothing larger by two steps does.
func TestPathSearch_AnyPath_ResultIsTheLargestThatPasses(t *testing.T) {
	for seed := range uint64(20000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		p := path{top: 1280 + rng.IntN(8000), floor: 1280, raise: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			p.limit = (1280 + rng.IntN(8000)) &^ 15
		}
		n := &simulated{rng: rng, carries: 1280 + rng.IntN(8000)}
		got, ok, _, _ := n.run(newPathSearch(p))
		size := got
		if got == 0 {
			size = p.top
		}
		what := fmt.Sprintf("%+v on a path of %d: %d", p, n.carries, got)
		switch {
		case !ok:
			t.Fatal(what, "not ok")
		case size > n.carries || size > p.top:
			t.Fatal(what, "does not pass")
		case p.raise && size+2*sizeStep <= min(n.carries, p.top):
			t.Fatal(what, "is too small")
		}
	}
}
