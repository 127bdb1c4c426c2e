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

// simNetwork is a link and a tunnel between nodes, with a simulated clock.
type simNetwork struct {
	t     testing.TB
	now   time.Time
	rand  *rand.Rand
	nodes []*simNode
	addrs []Address
	// lanCut and tunCut hold pairs of nodes without a connection, lower number first.
	lanCut, tunCut map[[2]int]bool
	lossRate       float64
	external       map[netip.Addr]bool // addresses of a machine outside of the cluster
	inbox          []func()
	answers        []int // nodes that answered the present request
	heartbeats     int   // heartbeats that arrived
}

type simNode struct {
	i        int
	name     string
	up       bool
	linkless bool // it has no link to announce on
	core     *core
}

const simStep = 50 * time.Millisecond

var simLAN = netip.MustParsePrefix("192.0.2.0/24")

func newSimNetwork(t testing.TB, seed uint64, nodes, addrs int) *simNetwork {
	w := &simNetwork{t: t, now: time.Unix(1e9, 0), rand: rand.New(rand.NewPCG(seed, 2)), lanCut: map[[2]int]bool{},
		tunCut:   map[[2]int]bool{},
		external: map[netip.Addr]bool{}}
	for i := range addrs {
		w.addrs = append(w.addrs, Address{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})})
	}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{i: i, name: fmt.Sprintf("n%d", i)})
	}
	for i := range nodes {
		w.restart(i)
	}
	return w
}

func simMAC(i int) mac           { return mac{2, 0, 0, 0, 0, byte(i)} }
func simAddr(i int) netip.Addr   { return netip.AddrFrom4([4]byte{10, 42, byte(i), 1}) }
func pair(i, j int) [2]int       { return [2]int{min(i, j), max(i, j)} }
func (w *simNetwork) lost() bool { return w.rand.Float64() < w.lossRate }
func (n *simNode) owns() string  { return strings.Join(n.owned(), " ") }

func (n *simNode) owned() (out []string) {
	for _, k := range n.core.order {
		if n.core.addresses[k].state == announcing {
			out = append(out, k.String())
		}
	}
	return out
}

// restart starts a node without state, as after a restart of its agent.
func (w *simNetwork) restart(i int) {
	n := w.nodes[i]
	n.up, n.core = true, newCore(n.name, Timing{}, w.now)
	w.set(i)
}

func (w *simNetwork) set(i int) {
	var peers []Peer
	for _, o := range w.nodes {
		if o.i != i {
			peers = append(peers, Peer{Name: o.name, Addr: simAddr(o.i)})
		}
	}
	links := []localLink{{"eth0", simMAC(i), []netip.Prefix{simLAN}}}
	if w.nodes[i].linkless {
		links = nil
	}
	w.nodes[i].core.set(w.now, electorate{addresses: w.addrs, peers: peers, links: links})
}

// advance advances the clock and delivers messages.
func (w *simNetwork) advance(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(simStep)
		mail := w.inbox
		w.inbox = nil
		for _, deliver := range mail {
			deliver()
		}
		for _, n := range w.nodes {
			if n.up {
				n.core.tick(w.now)
				w.execute(n)
			}
		}
	}
}

func (w *simNetwork) execute(n *simNode) {
	for _, x := range n.core.takeActions() {
		switch x.do {
		case actHeartbeat:
			w.sendHeartbeat(n, x)
		case actProbe:
			w.multicast(n.i, observation{mac: simMAC(n.i), target: x.addr})
			if w.external[x.addr] && !w.lost() {
				w.inbox = append(w.inbox, func() { w.deliver(n, observation{mac: simMAC(99), claimed: x.addr}) })
			}
		case actAnnounce:
			w.multicast(n.i, observation{mac: simMAC(n.i), claimed: x.addr})
		case actAnswer:
			s := observation{mac: simMAC(n.i), claimed: x.addr}
			for _, o := range w.nodes {
				if simMAC(o.i) == x.request.mac {
					w.inbox = append(w.inbox, func() { w.deliver(o, s) })
				}
			}
			if x.request.mac == simMAC(98) {
				w.answers = append(w.answers, n.i)
			}
		}
	}
}

func (w *simNetwork) sendHeartbeat(n *simNode, x action) {
	got, err := decodeHeartbeat(x.heartbeat.encode())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range w.nodes {
		if o != n && (x.toAll || !n.core.linkless(n.core.members[o.name])) && !w.tunCut[pair(n.i, o.i)] && !w.lost() {
			w.inbox = append(w.inbox, func() {
				if o.up {
					w.heartbeats++
					o.core.receive(w.now, simAddr(n.i), got)
					w.execute(o)
				}
			})
		}
	}
}

func (w *simNetwork) multicast(from int, s observation) {
	for _, o := range w.nodes {
		if o.i != from && !w.lanCut[pair(from, o.i)] && !w.lost() {
			w.inbox = append(w.inbox, func() { w.deliver(o, s) })
		}
	}
}

func (w *simNetwork) deliver(n *simNode, s observation) {
	if n.up {
		n.core.observe(w.now, "eth0", s)
		w.execute(n)
	}
}

// request is a client's ARP request for an address. It returns the nodes that answer.
func (w *simNetwork) request(a netip.Addr) []int {
	w.answers = nil
	for _, n := range w.nodes {
		w.deliver(n, observation{mac: simMAC(98), requester: netip.AddrFrom4([4]byte{192, 0, 2, 9}), target: a})
	}
	return w.answers
}

// expectedOwner is the node of the highest rank for an address.
func (w *simNetwork) expectedOwner(a Address) int {
	best := -1
	for _, n := range w.nodes {
		candidate := n.up && !n.linkless && (a.Nodes == nil || slices.Contains(a.Nodes, n.name))
		if candidate && (best < 0 || ranksBefore(a.Addr, n.name, w.nodes[best].name)) {
			best = n.i
		}
	}
	return best
}

// checkOwners checks that only the expected owner answers for every address.
func (w *simNetwork) checkOwners(when string) {
	w.t.Helper()
	for _, a := range w.addrs {
		want := []int{}
		if b := w.expectedOwner(a); b >= 0 && !w.external[a.Addr] {
			want = append(want, b)
		}
		if got := w.request(a.Addr); !slices.Equal(got, want) {
			w.t.Errorf("%s: %s is announced by %v, expected %v", when, a.Addr, got, want)
		}
	}
}

func (w *simNetwork) cut(i, j int, lan, tunnel bool) {
	w.lanCut[pair(i, j)], w.tunCut[pair(i, j)] = lan, tunnel
}

func (w *simNetwork) repairAll() {
	clear(w.lanCut)
	clear(w.tunCut)
}

// The addresses spread over the nodes, one owner each. When a node fails, another node answers for its addresses within a
// second, and no other address moves. When the node returns it gets its addresses back, and some node always answers.
func TestElection_NodeFailsAndReturns_AddressesMoveAndComeBack(t *testing.T) {
	w := newSimNetwork(t, 1, 4, 24)
	w.advance(5 * time.Second)
	w.checkOwners("at the start")
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
		w.advance(time.Second)
		for _, s := range was {
			if got := w.request(netip.MustParseAddr(s)); len(got) != 1 {
				t.Errorf("a second after the failure of n%d %s is announced by %v", dead, s, got)
			}
		}
		for _, n := range w.nodes {
			if n.up && !strings.Contains(n.owns(), kept[n.i]) && len(n.owned()) < len(strings.Fields(kept[n.i])) {
				t.Errorf("n%d lost some of %s", n.i, kept[n.i])
			}
		}
		w.advance(5 * time.Second)
		w.checkOwners("after a failure")
		w.restart(dead)
		for range 200 {
			w.advance(simStep)
			for _, a := range w.addrs {
				if got := w.request(a.Addr); len(got) == 0 {
					t.Fatalf("%s is not announced while n%d returns", a.Addr, dead)
				}
			}
		}
		w.checkOwners("after a return")
	}
}

// A restarted agent announces nothing before it has received heartbeats, or has waited for ListenTime.
func TestElection_RestartedNodeIsolated_AnnouncesNothing(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 12)
	w.advance(5 * time.Second)
	w.nodes[0].up = false
	w.advance(3 * time.Second)
	w.restart(0)
	w.cut(0, 1, true, true)
	w.cut(0, 2, true, true)
	w.advance(900 * time.Millisecond) // isolated for less than ListenTime
	if got := w.nodes[0].owns(); got != "" {
		t.Errorf("it announces %s before it received a heartbeat", got)
	}
}

// Both sides of a partition announce. After the partition one node is left, first the one with the higher epoch.
func TestElection_Partition_BothSidesAnnounceThenOne(t *testing.T) {
	w := newSimNetwork(t, 1, 4, 16)
	w.advance(5 * time.Second)
	for _, i := range []int{0, 1} {
		for _, j := range []int{2, 3} {
			w.cut(i, j, true, true)
		}
	}
	w.advance(10 * time.Second)
	for _, a := range w.addrs {
		if got := w.request(a.Addr); len(got) != 2 || got[0] > 1 || got[1] < 2 {
			t.Errorf("in two halves %s is announced by %v, expected one of each", a.Addr, got)
		}
	}
	w.repairAll()
	w.advance(500 * time.Millisecond)
	for _, a := range w.addrs {
		if got := w.request(a.Addr); len(got) != 1 {
			t.Errorf("half a second after the partition %s is announced by %v", a.Addr, got)
		}
	}
	w.advance(10 * time.Second)
	w.checkOwners("repaired")
}

// The tunnel fails and the link does not: a node that answers on the link is alive and keeps its addresses.
func TestElection_TunnelFails_NodeThatAnswersOnTheLinkKeepsItsAddresses(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 12)
	w.advance(5 * time.Second)
	before := w.nodes[0].owns()
	w.cut(0, 1, false, true)
	w.cut(0, 2, false, true)
	w.advance(20 * time.Second)
	if got := w.nodes[0].owns(); got != before {
		t.Errorf("n0 has %s, had %s", got, before)
	}
	w.checkOwners("tunnel cut")
	w.repairAll()
	w.advance(10 * time.Second)
	w.checkOwners("repaired")
	// Cut as a whole first, so that both announce; then only the LAN heals.
	w.cut(0, 1, true, true)
	w.cut(0, 2, true, true)
	w.advance(5 * time.Second)
	w.cut(0, 1, false, true)
	w.cut(0, 2, false, true)
	w.advance(30 * time.Second)
	for _, a := range w.addrs {
		if got := w.request(a.Addr); len(got) != 1 {
			t.Errorf("%s is announced by %v without heartbeats", a.Addr, got)
		}
	}
}

// An address of an external machine is not announced until that machine is gone. A duplicate that appears later is reported,
// and the address is defended.
func TestElection_DuplicateOutsideTheCluster_NotAnnouncedOrDefended(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 4)
	a := w.addrs[0].Addr
	w.external[a] = true
	for range 400 {
		w.advance(simStep)
		if got := w.request(a); len(got) > 0 {
			t.Fatalf("%v answer for an address of another machine", got)
		}
	}
	w.checkOwners("with a duplicate")
	var notes []string
	for _, n := range w.nodes {
		if x := n.core.addresses[a]; x.note != "" {
			notes = append(notes, x.note)
		}
		if n.core.stats.Duplicates > 3 {
			t.Errorf("%s counts one duplicate %d times", n.name, n.core.stats.Duplicates)
		}
	}
	if len(notes) == 0 || !strings.Contains(notes[0], simMAC(99).String()) {
		t.Errorf("no note names the machine that has the address: %v", notes)
	}
	delete(w.external, a)
	w.advance(15 * time.Second)
	w.checkOwners("without it")
	n := w.nodes[w.expectedOwner(w.addrs[0])]
	w.deliver(n, observation{mac: simMAC(99), claimed: a})
	if n.core.addresses[a].state != announcing || n.core.addresses[a].note == "" {
		t.Errorf("a late duplicate: state %v note %q", n.core.addresses[a].state, n.core.addresses[a].note)
	}
}

// With externalTrafficPolicy Local only nodes with an endpoint announce the address. Without endpoints no node does.
func TestElection_TrafficPolicyLocal_FollowsEndpoints(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 3)
	for _, nodes := range [][]string{{"n2"}, {"n0"}, {}, {"n0", "n1"}, {"n1", "n2"}} {
		for i := range w.addrs {
			w.addrs[i].Nodes = nodes
		}
		for i := range w.nodes {
			w.set(i)
		}
		w.advance(6 * time.Second)
		w.checkOwners(fmt.Sprint("with endpoints on ", nodes))
	}
	w.addrs = w.addrs[:1]
	for i := range w.nodes {
		w.set(i)
		w.execute(w.nodes[i])
		if c := len(w.nodes[i].core.addresses); c != 1 {
			t.Errorf("%d addresses are left", c)
		}
	}
}

// The node of the highest rank has not received a new address: the next node announces it meanwhile.
func TestElection_FirstNodeHasOldConfiguration_NextNodeAnnounces(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 8)
	all := w.addrs
	w.advance(5 * time.Second)
	w.addrs = append(slices.Clone(all[1:]), Address{Addr: netip.MustParseAddr("192.0.2.250")})
	outdated := w.expectedOwner(w.addrs[len(w.addrs)-1])
	for i := range w.nodes {
		if i != outdated {
			w.set(i)
		}
	}
	w.advance(3 * time.Second)
	if got := w.request(netip.MustParseAddr("192.0.2.250")); len(got) != 1 || got[0] == outdated {
		t.Errorf("the new address is announced by %v; node %d has the old configuration", got, outdated)
	}
	w.set(outdated)
	w.advance(6 * time.Second)
	w.checkOwners("with the same configuration everywhere")
}

// There are more addresses than one heartbeat holds.
func TestElection_MoreAddressesThanAHeartbeatHolds_AllAnnounced(t *testing.T) {
	w := newSimNetwork(t, 1, 2, 150)
	w.advance(8 * time.Second)
	w.checkOwners("at the start")
	w.nodes[0].up = false
	w.advance(time.Second)
	for _, a := range w.addrs {
		if got := w.request(a.Addr); len(got) != 1 {
			t.Errorf("%s is announced by %v", a.Addr, got)
		}
	}
	w.restart(0)
	w.advance(10 * time.Second)
	w.checkOwners("after a return")
}

// Nodes fail and return, pairs of nodes lose the tunnel, the link or both, endpoints move, and packets are lost. Some time
// after the last event every address has the one owner that the rules give it.
func TestElection_RandomHistories_OneOwnerAtTheEnd(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newSimNetwork(t, seed, 4, 8)
			w.lossRate = []float64{0, 0, 0.02, 0.1}[seed%4]
			for range 25 {
				w.randomEvent()
				w.advance(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
			}
			w.repairAll()
			w.lossRate = 0
			for _, n := range w.nodes {
				if !n.up {
					w.restart(n.i)
				}
				w.set(n.i)
			}
			w.advance(25 * time.Second)
			w.checkOwners("at the end")
		})
	}
}

func (w *simNetwork) randomEvent() {
	i, j := w.rand.IntN(len(w.nodes)), w.rand.IntN(len(w.nodes))
	switch w.rand.IntN(6) {
	case 0:
		w.nodes[i].up = false
	case 1:
		w.restart(i)
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

// A second node fails soon after the restart of the first one, which has received heartbeats and does not wait.
func TestElection_SecondNodeFailsAfterRestart_AddressesMove(t *testing.T) {
	w := newSimNetwork(t, 1, 2, 8)
	w.advance(5 * time.Second)
	w.nodes[0].up = false
	w.advance(2 * time.Second)
	w.restart(0)
	w.advance(400 * time.Millisecond)
	w.nodes[1].up = false
	w.advance(1500 * time.Millisecond)
	for _, a := range w.addrs {
		if got := w.request(a.Addr); len(got) != 1 {
			t.Errorf("%s is announced by %v", a.Addr, got)
		}
	}
}

// An address is announced on the links whose subnet contains it, or on all links with AnyLink.
func TestLinksFor_AddressInSubnetOrAnyLink_ReturnsLinks(t *testing.T) {
	c := newCore("n", Timing{}, time.Now())
	links := []localLink{
		{"eth0", ownMAC, []netip.Prefix{simLAN}},
		{"eth1", otherMAC, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
	}
	inside, outside := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.7")
	for _, anyLink := range []bool{false, true} {
		c.set(time.Now(), electorate{addresses: []Address{{Addr: inside}, {Addr: outside}}, links: links, anyLink: anyLink})
		want := "[]"
		if anyLink {
			want = "[eth0 eth1]"
		}
		if got := fmt.Sprint(c.linksFor(inside)); got != "[eth1]" {
			t.Errorf("any %v: an address of eth1's subnet is announced on %s", anyLink, got)
		}
		if got := c.linksFor(netip.MustParseAddr("198.51.100.255")); got != nil {
			t.Errorf("any %v: a broadcast address is announced on %s", anyLink, got)
		}
		if got := fmt.Sprint(c.linksFor(outside)); got != want {
			t.Errorf("any %v: an address of no subnet is announced on %s, expected %s", anyLink, got, want)
		}
	}
}

// Nodes without a link announce nothing and exchange few heartbeats. A restarted node does not wait for them.
func TestElection_LinklessNodes_FewHeartbeats(t *testing.T) {
	w := newSimNetwork(t, 1, 6, 6)
	for i := range w.nodes[2:] {
		w.nodes[i+2].linkless = true
	}
	for i := range w.nodes {
		w.restart(i)
	}
	w.advance(6 * time.Second)
	w.checkOwners("at the start")
	w.heartbeats = 0
	w.advance(10 * time.Second)
	// Two nodes that announce send 67 heartbeats to each other, all other pairs 10.
	if most := 2*70 + 28*10 + 30; w.heartbeats > most {
		t.Errorf("%d heartbeats in ten seconds, expected at most %d", w.heartbeats, most)
	}
	for _, n := range w.nodes {
		for _, m := range n.core.members {
			if !m.healthy {
				t.Errorf("%s considers a node unreachable", n.name)
			}
		}
	}
	for _, a := range w.addrs {
		if r := w.nodes[5].core.strongestClaim(w.nodes[5].core.addresses[a.Addr]); r.node != w.nodes[w.expectedOwner(a)].name {
			t.Errorf("n5 received from %q a claim of %s", r.node, a.Addr)
		}
	}
	w.restart(0)
	w.advance(500 * time.Millisecond)
	if !w.nodes[0].core.settled(w.now) {
		t.Error("half a second after its restart a node still waits for other nodes")
	}
}

// An agent that restarts at once keeps its addresses, so that connections through them continue. An unreachable node in the
// cluster does not change that.
func TestElection_QuickRestart_KeepsAddresses(t *testing.T) {
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("another node unreachable %v", failed), func(t *testing.T) {
			w := newSimNetwork(t, 1, 4, 12)
			w.nodes[3].up = !failed
			w.advance(8 * time.Second)
			was := w.nodes[0].owns()
			w.nodes[0].up = false
			w.advance(250 * time.Millisecond)
			w.restart(0)
			for range 120 {
				w.advance(simStep)
				for _, n := range w.nodes[1:] {
					for _, a := range n.owned() {
						if n.up && strings.Contains(" "+was+" ", " "+a+" ") {
							t.Fatalf("%s took %s", n.name, a)
						}
					}
				}
			}
			if got := w.nodes[0].owns(); got != was {
				t.Errorf("it had %s and has %s", was, got)
			}
		})
	}
}

// A node returns with an earlier clock.
func TestElection_ClockSetBack_HeartbeatsAccepted(t *testing.T) {
	w := newSimNetwork(t, 1, 3, 9)
	w.advance(5 * time.Second)
	w.restart(0)
	w.nodes[0].core.started = 1
	w.advance(8 * time.Second)
	w.checkOwners("with an old clock")
}
