// Package traffic counts the connections, packets and bytes of Services. A Meter belongs to one Service; a Ledger turns
// all meters into the bounded list that the metrics show. It owns no goroutine and never sees a packet: the data path
// adds what the flow table has counted.
package traffic

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxServices bounds the Services that Ledger.Show names: those that have forwarded the most packets.
const MaxServices = 50

// OtherServices is the name under which Ledger.Show sums up all other Services.
const OtherServices = "other"

// Traffic is the sum over a Service's life.
type Traffic struct {
	Connections uint64
	// Ejections counts backends that were removed from selection because their connections failed.
	Ejections uint64
	// Requests were sent to backends, Replies by them.
	Requests, Replies Volume
}

// Volume counts packets, a super-packet as one, and their bytes from the IP header on.
type Volume struct{ Packets, Bytes uint64 }

// sums are the counters of a meter. The packets and bytes of a direction (0 original, 1 reply) follow sumPackets and
// sumBytes.
type sums [6]uint64

const (
	sumOpened  = 0
	sumPackets = 1
	sumBytes   = 3
	sumEjected = 5
)

func (s *sums) add(o sums) {
	for i := range s {
		s[i] += o[i]
	}
}

func (s sums) minus(o sums) sums {
	for i := range s {
		s[i] -= o[i]
	}
	return s
}

func (s sums) packets() uint64 { return s[sumPackets] + s[sumPackets+1] }

func (s sums) traffic() Traffic {
	return Traffic{
		Connections: s[sumOpened],
		Ejections:   s[sumEjected],
		Requests:    Volume{s[sumPackets], s[sumBytes]},
		Replies:     Volume{s[sumPackets+1], s[sumBytes+1]},
	}
}

// Meter counts for one Service, or for one Pod with host ports. It outlives every change of the object. A nil Meter
// counts nothing. Any number of goroutines may use it.
type Meter struct {
	name string
	n    [len(sums{})]atomic.Uint64
	// named and other are the parts of n that were shown under the name and under OtherServices. Ledger.mu guards them.
	named, other sums
}

// NewMeter returns a meter that Ledger.Show names so.
func NewMeter(name string) *Meter { return &Meter{name: name} }

// AddConnection counts a new flow.
func (m *Meter) AddConnection() {
	if m != nil {
		m.n[sumOpened].Add(1)
	}
}

// AddEjection counts the ejection of a backend.
func (m *Meter) AddEjection() {
	if m != nil {
		m.n[sumEjected].Add(1)
	}
}

// Add counts packets and bytes of one direction: 0 original, 1 reply.
func (m *Meter) Add(direction int, packets, bytes uint64) {
	if m != nil {
		m.n[sumPackets+direction].Add(packets)
		m.n[sumBytes+direction].Add(bytes)
	}
}

// Packets returns the packets of both directions.
func (m *Meter) Packets() uint64 { return m.load().packets() }

func (m *Meter) load() (s sums) {
	for i := range m.n {
		s[i] = m.n[i].Load()
	}
	return s
}

// Ledger divides the meters into those that are shown by name and the others. What was shown on one side is never moved
// to the other: no sum shrinks when a Service changes sides. The zero value is ready.
type Ledger struct {
	mu    sync.Mutex
	other sums
	// Deleted counts for flows that outlive their Service.
	Deleted Meter
}

// Show returns the traffic of the busiest Services by name, and of all others under OtherServices.
func (l *Ledger) Show(all []*Meter) map[string]Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	type line struct {
		*Meter
		now sums
	}
	lines := make([]line, 0, len(all))
	for _, m := range all {
		lines = append(lines, line{m, m.load()})
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(
			cmp.Compare(b.now.packets(), a.now.packets()),
			cmp.Compare(b.now[sumOpened], a.now[sumOpened]),
			cmp.Compare(a.name, b.name))
	})
	out := map[string]Traffic{}
	busy := min(len(lines), MaxServices)
	for _, x := range lines[:busy] {
		x.named = x.now.minus(x.other)
		out[x.name] = x.named.traffic()
	}
	for _, x := range append(lines[busy:], line{&l.Deleted, l.Deleted.load()}) {
		l.other.add(x.now.minus(x.named).minus(x.other))
		x.other = x.now.minus(x.named)
	}
	out[OtherServices] = l.other.traffic()
	return out
}
