package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a LAN and a tunnel between nodes with a clock of its own: whole histories in no time.
type world struct {
	t     testing.TB
	now   time.Time
	rand  *rand.Rand
	nodes []*simNode
	addrs []Address
	// lanCut and tunCut hold pairs of nodes that do not hear each other, lower number first.
	lanCut, tunCut map[[2]int]bool
	loss           float64
	foreign        map[netip.Addr]bool // a machine outside of the cluster has these
	mail           []func()
	answers        []int // who answered the question under way
	beats          int   // heartbeats that arrived
}

type simNode struct {
	i    int
	name string
	up   bool
	mute bool // it has no link to announce on
	core *core
}

const simStep = 50 * time.Millisecond

var simLAN = netip.MustParsePrefix("192.0.2.0/24")

func newWorld(t testing.TB, seed uint64, nodes, addrs int) *world {
	w := &world{t: t, now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(seed, 2)), lanCut: map[[2]int]bool{}, tunCut: map[[2]int]bool{}, foreign: map[netip.Addr]bool{}}
	for i := range addrs {
		w.addrs = append(w.addrs, Address{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})})
	}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{i: i, name: fmt.Sprintf("n%d", i)})
	}
	for i := range nodes {
		w.start(i)
	}
	return w
}

func simMAC(i int) mac          { return mac{2, 0, 0, 0, 0, byte(i)} }
func simAddr(i int) netip.Addr  { return netip.AddrFrom4([4]byte{10, 42, byte(i), 1}) }
func pair(i, j int) [2]int      { return [2]int{min(i, j), max(i, j)} }
func (w *world) lost() bool     { return w.rand.Float64() < w.loss }
func (n *simNode) owns() string { return strings.Join(n.owned(), " ") }

func (n *simNode) owned() (out []string) {
	for _, k := range n.core.order {
		if n.core.addrs[k].state == announcing {
			out = append(out, k.String())
		}
	}
	return out
}

// start begins a node anew, as a restarted agent does.
func (w *world) start(i int) {
	n := w.nodes[i]
	n.up, n.core = true, newCore(n.name, Timing{}, w.now)
	w.set(i)
}

func (w *world) set(i int) {
	var peers []Peer
	for _, o := range w.nodes {
		if o.i != i {
			peers = append(peers, Peer{o.name, simAddr(o.i)})
		}
	}
	lans := []lan{{"eth0", simMAC(i), []netip.Prefix{simLAN}}}
	if w.nodes[i].mute {
		lans = nil
	}
	w.nodes[i].core.set(w.now, w.addrs, peers, lans, false)
}

// run lets the time pass.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(simStep)
		mail := w.mail
		w.mail = nil
		for _, deliver := range mail {
			deliver()
		}
		for _, n := range w.nodes {
			if n.up {
				n.core.tick(w.now)
				w.carryOut(n)
			}
		}
	}
}

func (w *world) carryOut(n *simNode) {
	for _, x := range n.core.take() {
		switch x.do {
		case actBeat:
			w.beat(n, x)
		case actProbe:
			w.onLAN(n.i, sighting{hw: simMAC(n.i), asked: x.addr})
			if w.foreign[x.addr] && !w.lost() {
				w.mail = append(w.mail, func() { w.see(n, sighting{hw: simMAC(99), claimed: x.addr}) })
			}
		case actAnnounce:
			w.onLAN(n.i, sighting{hw: simMAC(n.i), claimed: x.addr})
		case actAnswer:
			s := sighting{hw: simMAC(n.i), claimed: x.addr}
			for _, o := range w.nodes {
				if simMAC(o.i) == x.to.hw {
					w.mail = append(w.mail, func() { w.see(o, s) })
				}
			}
			if x.to.hw == simMAC(98) {
				w.answers = append(w.answers, n.i)
			}
		}
	}
}

func (w *world) beat(n *simNode, x action) {
	got, err := decodeBeat(x.beat.encode())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range w.nodes {
		if o != n && (x.all || !n.core.slow(n.core.members[o.name])) && !w.tunCut[pair(n.i, o.i)] && !w.lost() {
			w.mail = append(w.mail, func() {
				if o.up {
					w.beats++
					o.core.heard(w.now, simAddr(n.i), got)
					w.carryOut(o)
				}
			})
		}
	}
}

func (w *world) onLAN(from int, s sighting) {
	for _, o := range w.nodes {
		if o.i != from && !w.lanCut[pair(from, o.i)] && !w.lost() {
			w.mail = append(w.mail, func() { w.see(o, s) })
		}
	}
}

func (w *world) see(n *simNode, s sighting) {
	if n.up {
		n.core.saw(w.now, "eth0", s)
		w.carryOut(n)
	}
}

// ask is a client's question who has an address; it returns the nodes that answer.
func (w *world) ask(a netip.Addr) []int {
	w.answers = nil
	for _, n := range w.nodes {
		w.see(n, sighting{hw: simMAC(98), asker: netip.AddrFrom4([4]byte{192, 0, 2, 9}), asked: a})
	}
	return w.answers
}

// best is the node that an address belongs to while all are well.
func (w *world) best(a Address) int {
	best := -1
	for _, n := range w.nodes {
		if n.up && !n.mute && (a.Nodes == nil || slices.Contains(a.Nodes, n.name)) && (best < 0 || before(a.Addr, n.name, w.nodes[best].name)) {
			best = n.i
		}
	}
	return best
}

// calm checks that every address is answered for by the one node it belongs to.
func (w *world) calm(when string) {
	w.t.Helper()
	for _, a := range w.addrs {
		want := []int{}
		if b := w.best(a); b >= 0 && !w.foreign[a.Addr] {
			want = append(want, b)
		}
		if got := w.ask(a.Addr); !slices.Equal(got, want) {
			w.t.Errorf("%s: %s is answered for by %v, expected %v", when, a.Addr, got, want)
		}
	}
}

func (w *world) cut(i, j int, lan, tunnel bool) {
	w.lanCut[pair(i, j)], w.tunCut[pair(i, j)] = lan, tunnel
}

func (w *world) healAll() {
	clear(w.lanCut)
	clear(w.tunCut)
}

// The addresses spread, each has one owner; when a node dies its addresses answer again within a second and the others
// do not move; when it comes back it gets its own back, and no address is without an answer meanwhile.
func TestTakeoverAndReturn(t *testing.T) {
	w := newWorld(t, 1, 4, 24)
	w.run(5 * time.Second)
	w.calm("at the start")
	for _, n := range w.nodes {
		if c := len(n.owned()); c < 2 || c > 12 {
			t.Errorf("%s has %d of 24 addresses", n.name, c)
		}
	}
	for dead := range w.nodes {
		was := w.nodes[dead].owned()
		kept := map[int]string{}
		for _, n := range w.nodes {
			kept[n.i] = n.owns()
		}
		w.nodes[dead].up = false
		w.run(time.Second)
		for _, s := range was {
			if got := w.ask(netip.MustParseAddr(s)); len(got) != 1 {
				t.Errorf("a second after the death of n%d %s is answered for by %v", dead, s, got)
			}
		}
		for _, n := range w.nodes {
			if n.up && !strings.Contains(n.owns(), kept[n.i]) && len(n.owned()) < len(strings.Fields(kept[n.i])) {
				t.Errorf("n%d lost some of %s", n.i, kept[n.i])
			}
		}
		w.run(5 * time.Second)
		w.calm("after a death")
		w.start(dead)
		for range 200 {
			w.run(simStep)
			for _, a := range w.addrs {
				if got := w.ask(a.Addr); len(got) == 0 {
					t.Fatalf("%s is without an answer while n%d comes back", a.Addr, dead)
				}
			}
		}
		w.calm("after a return")
	}
}

// A restarted agent that nobody has heard of yet takes nothing away.
func TestRestartTakesNothing(t *testing.T) {
	w := newWorld(t, 1, 3, 12)
	w.run(5 * time.Second)
	w.nodes[0].up = false
	w.run(3 * time.Second)
	w.start(0)
	w.cut(0, 1, true, true)
	w.cut(0, 2, true, true)
	w.run(900 * time.Millisecond) // alone for less than it listens
	if got := w.nodes[0].owns(); got != "" {
		t.Errorf("it announces %s before it heard anybody", got)
	}
}

// Both sides of a partition serve; healed, one is left, the one with the higher epoch first.
func TestPartition(t *testing.T) {
	w := newWorld(t, 1, 4, 16)
	w.run(5 * time.Second)
	for _, i := range []int{0, 1} {
		for _, j := range []int{2, 3} {
			w.cut(i, j, true, true)
		}
	}
	w.run(10 * time.Second)
	for _, a := range w.addrs {
		if got := w.ask(a.Addr); len(got) != 2 || got[0] > 1 || got[1] < 2 {
			t.Errorf("in two halves %s is answered for by %v, expected one of each", a.Addr, got)
		}
	}
	w.healAll()
	w.run(500 * time.Millisecond)
	for _, a := range w.addrs {
		if got := w.ask(a.Addr); len(got) != 1 {
			t.Errorf("half a second after the healing %s is answered for by %v", a.Addr, got)
		}
	}
	w.run(10 * time.Second)
	w.calm("healed")
}

// The tunnel is cut and the LAN is not: who answers on the LAN lives, and keeps what it has.
func TestTunnelCut(t *testing.T) {
	w := newWorld(t, 1, 3, 12)
	w.run(5 * time.Second)
	before := w.nodes[0].owns()
	w.cut(0, 1, false, true)
	w.cut(0, 2, false, true)
	w.run(20 * time.Second)
	if got := w.nodes[0].owns(); got != before {
		t.Errorf("n0 has %s, had %s", got, before)
	}
	w.calm("tunnel cut")
	w.healAll()
	w.run(10 * time.Second)
	w.calm("healed")
	// Cut as a whole first, so that both announce; then only the LAN heals.
	w.cut(0, 1, true, true)
	w.cut(0, 2, true, true)
	w.run(5 * time.Second)
	w.cut(0, 1, false, true)
	w.cut(0, 2, false, true)
	w.run(30 * time.Second)
	for _, a := range w.addrs {
		if got := w.ask(a.Addr); len(got) != 1 {
			t.Errorf("%s is answered for by %v without heartbeats", a.Addr, got)
		}
	}
}

// An address that a foreign machine has is never announced, and is as soon as that machine is gone; one that turns up
// later is defended and reported.
func TestDuplicates(t *testing.T) {
	w := newWorld(t, 1, 3, 4)
	a := w.addrs[0].Addr
	w.foreign[a] = true
	for range 400 {
		w.run(simStep)
		if got := w.ask(a); len(got) > 0 {
			t.Fatalf("%v answer for an address that somebody else has", got)
		}
	}
	w.calm("with a duplicate")
	var notes []string
	for _, n := range w.nodes {
		if x := n.core.addrs[a]; x.note != "" {
			notes = append(notes, x.note)
		}
		if n.core.stats.Duplicates > 3 {
			t.Errorf("%s counts one duplicate %d times", n.name, n.core.stats.Duplicates)
		}
	}
	if len(notes) == 0 || !strings.Contains(notes[0], simMAC(99).String()) {
		t.Errorf("nobody says who has it: %v", notes)
	}
	delete(w.foreign, a)
	w.run(15 * time.Second)
	w.calm("without it")
	n := w.nodes[w.best(w.addrs[0])]
	w.see(n, sighting{hw: simMAC(99), claimed: a})
	if n.core.addrs[a].state != announcing || n.core.addrs[a].note == "" {
		t.Errorf("a late duplicate: state %v note %q", n.core.addrs[a].state, n.core.addrs[a].note)
	}
}

// Only nodes with an endpoint announce an address with policy Local; it moves with the endpoint, and is nobody's without.
func TestLocalCandidates(t *testing.T) {
	w := newWorld(t, 1, 3, 3)
	for _, nodes := range [][]string{{"n2"}, {"n0"}, {}, {"n0", "n1"}, {"n1", "n2"}} {
		for i := range w.addrs {
			w.addrs[i].Nodes = nodes
		}
		for i := range w.nodes {
			w.set(i)
		}
		w.run(6 * time.Second)
		w.calm(fmt.Sprint("with endpoints on ", nodes))
	}
	w.addrs = w.addrs[:1]
	for i := range w.nodes {
		w.set(i)
		w.carryOut(w.nodes[i])
		if c := len(w.nodes[i].core.addrs); c != 1 {
			t.Errorf("%d addresses are left", c)
		}
	}
}

// A node whose knowledge is old does not know of an address that belongs to it: the next one serves meanwhile.
func TestIgnorantNode(t *testing.T) {
	w := newWorld(t, 1, 3, 8)
	all := w.addrs
	w.run(5 * time.Second)
	w.addrs = append(slices.Clone(all[1:]), Address{Addr: netip.MustParseAddr("192.0.2.250")})
	ignorant := w.best(w.addrs[len(w.addrs)-1])
	for i := range w.nodes {
		if i != ignorant {
			w.set(i)
		}
	}
	w.run(3 * time.Second)
	if got := w.ask(netip.MustParseAddr("192.0.2.250")); len(got) != 1 || got[0] == ignorant {
		t.Errorf("the new address is answered for by %v; %d does not know it", got, ignorant)
	}
	w.set(ignorant)
	w.run(6 * time.Second)
	w.calm("when all know")
}

// More addresses than one heartbeat holds.
func TestManyAddresses(t *testing.T) {
	w := newWorld(t, 1, 2, 150)
	w.run(8 * time.Second)
	w.calm("at the start")
	w.nodes[0].up = false
	w.run(time.Second)
	for _, a := range w.addrs {
		if got := w.ask(a.Addr); len(got) != 1 {
			t.Errorf("%s is answered for by %v", a.Addr, got)
		}
	}
	w.start(0)
	w.run(10 * time.Second)
	w.calm("after a return")
}

// Random histories: nodes die and return, pairs lose each other in the tunnel, on the LAN or both, endpoints move, and
// packets get lost. Whatever happened: some time after the last event every address has the one owner it belongs to.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 4, 8)
			w.loss = []float64{0, 0, 0.02, 0.1}[seed%4]
			for range 25 {
				w.event()
				w.run(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
			}
			w.healAll()
			w.loss = 0
			for _, n := range w.nodes {
				if !n.up {
					w.start(n.i)
				}
				w.set(n.i)
			}
			w.run(25 * time.Second)
			w.calm("at the end")
		})
	}
}

func (w *world) event() {
	i, j := w.rand.IntN(len(w.nodes)), w.rand.IntN(len(w.nodes))
	switch w.rand.IntN(6) {
	case 0:
		w.nodes[i].up = false
	case 1:
		w.start(i)
	case 2:
		w.cut(i, j, true, true)
	case 3:
		w.cut(i, j, w.rand.IntN(2) == 0, w.rand.IntN(2) == 0)
	case 4:
		w.cut(i, j, false, false)
	case 5:
		nodes := []string(nil)
		if w.rand.IntN(2) == 0 {
			nodes = []string{w.nodes[i].name, w.nodes[j].name}
		}
		w.addrs[w.rand.IntN(len(w.addrs))].Nodes = nodes
		for k, n := range w.nodes {
			if n.up && w.rand.IntN(5) > 0 {
				w.set(k)
			}
		}
	}
}

// A second failure soon after a restart: the restarted node has heard everybody, so it does not wait for the dead one.
func TestDeathSoonAfterRestart(t *testing.T) {
	w := newWorld(t, 1, 2, 8)
	w.run(5 * time.Second)
	w.nodes[0].up = false
	w.run(2 * time.Second)
	w.start(0)
	w.run(400 * time.Millisecond)
	w.nodes[1].up = false
	w.run(1500 * time.Millisecond)
	for _, a := range w.addrs {
		if got := w.ask(a.Addr); len(got) != 1 {
			t.Errorf("%s is answered for by %v", a.Addr, got)
		}
	}
}

// Where an address is announced: on the links whose subnet holds it, or on all of them where that was asked for.
func TestLinks(t *testing.T) {
	c := newCore("n", Timing{}, time.Now())
	lans := []lan{{"eth0", us, []netip.Prefix{simLAN}}, {"eth1", them, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}}
	inside, outside := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.7")
	for _, anyLink := range []bool{false, true} {
		c.set(time.Now(), []Address{{Addr: inside}, {Addr: outside}}, nil, lans, anyLink)
		want := "[]"
		if anyLink {
			want = "[eth0 eth1]"
		}
		if got := fmt.Sprint(c.on(inside)); got != "[eth1]" {
			t.Errorf("any %v: an address of eth1's subnet is announced on %s", anyLink, got)
		}
		if got := c.on(netip.MustParseAddr("198.51.100.255")); got != nil {
			t.Errorf("any %v: a broadcast address is announced on %s", anyLink, got)
		}
		if got := fmt.Sprint(c.on(outside)); got != want {
			t.Errorf("any %v: an address of no subnet is announced on %s, expected %s", anyLink, got, want)
		}
	}
}

// Nodes without a link announce nothing and cost little, but see who announces; a restarted node does not wait for them.
func TestMuteNodes(t *testing.T) {
	w := newWorld(t, 1, 6, 6)
	for i := range w.nodes[2:] {
		w.nodes[i+2].mute = true
	}
	for i := range w.nodes {
		w.start(i)
	}
	w.run(6 * time.Second)
	w.calm("at the start")
	w.beats = 0
	w.run(10 * time.Second)
	// Two that announce tell each other 67 times each, all the other pairs 10 times.
	if most := 2*70 + 28*10 + 30; w.beats > most {
		t.Errorf("%d heartbeats in ten seconds, expected at most %d", w.beats, most)
	}
	for _, n := range w.nodes {
		for _, m := range n.core.members {
			if !m.healthy {
				t.Errorf("%s takes a node for dead", n.name)
			}
		}
	}
	for _, a := range w.addrs {
		if r := w.nodes[5].core.rival(w.nodes[5].core.addrs[a.Addr]); r.node != w.nodes[w.best(a)].name {
			t.Errorf("n5 sees %q announce %s", r.node, a.Addr)
		}
	}
	w.start(0)
	w.run(500 * time.Millisecond)
	if !w.nodes[0].core.settled(w.now) {
		t.Error("half a second after its restart a node still waits for the others")
	}
}

// An agent that is restarted at once keeps its addresses, so that the connections through them live: also in a cluster
// with a node that is gone for good.
func TestQuickRestart(t *testing.T) {
	for _, dead := range []bool{false, true} {
		w := newWorld(t, 1, 4, 12)
		w.nodes[3].up = !dead
		w.run(8 * time.Second)
		was := w.nodes[0].owns()
		w.nodes[0].up = false
		w.run(250 * time.Millisecond)
		w.start(0)
		for range 120 {
			w.run(simStep)
			for _, n := range w.nodes[1:] {
				for _, a := range n.owned() {
					if n.up && strings.Contains(" "+was+" ", " "+a+" ") {
						t.Fatalf("dead node %v: %s took %s", dead, n.name, a)
					}
				}
			}
		}
		if got := w.nodes[0].owns(); got != was {
			t.Errorf("dead node %v: it had %s and has %s", dead, was, got)
		}
	}
}

// A node that comes back with its clock set back is heard all the same.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t, 1, 3, 9)
	w.run(5 * time.Second)
	w.start(0)
	w.nodes[0].core.born = 1
	w.run(8 * time.Second)
	w.calm("with an old clock")
}
