package table

import (
	"strconv"
	"sync/atomic"
	"time"
)

// EjectAnnotation of a Service is the number of failed TCP connections in a row, of at least two clients, after which a
// backend is ejected. Without it no backend is.
//
// A client's failures may have their cause at the client, and a hostile one can make connections fail. So the failures of
// one client count for half of the number at most, and a successful connection of any client resets the count.
//
// An ejected backend gets no new connection for a while. Then one connection tries it: if the backend answers, it is
// selected again; if not, a connection of another client tries it, and if that fails, too, it is ejected for twice as
// long. Established connections are never touched.
const EjectAnnotation = "warren.dev/eject-after"

const (
	firstEjection   = 10  // seconds
	longestEjection = 300 // seconds
	// TrialTime is after how many seconds another connection may try a backend if the first trial had no result.
	TrialTime = 10
)

// ejectAfter reads the annotation. Every value that is not a number from 1 to 1023 means never.
func ejectAfter(annotations map[string]string) uint16 {
	n, _ := strconv.ParseUint(annotations[EjectAnnotation], 10, 10)
	return uint16(n)
}

// Record counts the failed connections of one backend of a Service port. Packets change it. It outlives every change of
// the table that keeps the backend. Times are seconds of CLOCK_BOOTTIME.
type Record struct{ packed atomic.Uint64 }

// recordKey names a record within its Service.
type recordKey struct {
	port uint64 // Frontend.ID
	Backend
}

// recordState is the content of a Record.
type recordState struct {
	until   uint32 // when a trial is due; 0: not ejected
	times   uint8  // ejections since the last successful connection, at most maxTimes
	trial   bool   // a connection tries the backend; the next one may do so at until
	several bool   // not only the first client has failed
	fails   uint16 // in a row, at most maxFails
	client  uint16 // FailingClient that was the first to fail; 0: none has
}

const (
	maxTimes   = 1<<7 - 1
	maxFails   = 1<<10 - 1
	maxClients = 1<<13 - 1
)

// FailingClient identifies a client in a Record, by a hash of its address.
func FailingClient(hash uint32) uint16 { return uint16(hash%maxClients) + 1 }

func (s recordState) pack() uint64 {
	return uint64(s.until)<<32 | uint64(s.times&maxTimes)<<25 | uint64(b2i(s.trial))<<24 | uint64(b2i(s.several))<<23 |
		uint64(s.fails&maxFails)<<13 | uint64(s.client&maxClients)
}

func unpackRecord(x uint64) recordState {
	return recordState{uint32(x >> 32), uint8(x >> 25 & maxTimes), x>>24&1 != 0, x>>23&1 != 0, uint16(x >> 13 & maxFails),
		uint16(x & maxClients)}
}

// Ejected reports whether the backend is ejected, and how long until a connection tries it: 0 if the next one does or
// if one does now.
func (r *Record) Ejected(now uint32) (left time.Duration, ejected bool) {
	s := unpackRecord(r.packed.Load())
	if s.until == 0 {
		return 0, false
	}
	if s.trial {
		return 0, true
	}
	return time.Duration(max(int32(s.until-now), 0)) * time.Second, true
}

// Clean reports whether no failure is recorded.
func (r *Record) Clean() bool { return r.packed.Load() == 0 }

func (r *Record) ejected() bool { return r.packed.Load()>>32 != 0 }

// admits reports whether a new connection may go to the backend. If a trial is due, that connection is the trial.
func (r *Record) admits(now uint32) bool {
	x := r.packed.Load()
	s := unpackRecord(x)
	switch {
	case s.until == 0:
		return true
	case now < s.until:
		return false
	}
	s.until, s.trial = now+TrialTime, true
	return r.packed.CompareAndSwap(x, s.pack())
}

// Succeed records an established connection: the backend is selected again.
func (r *Record) Succeed() {
	if r.packed.Load() != 0 {
		r.packed.Store(0)
	}
}

// Failure is a failed connection of a FailingClient, at a Service that ejects after so many.
type Failure struct {
	Limit, Client uint16
	Now           uint32
}

// Fail records a failed connection and reports whether it has ejected the backend. With mustStay the failure is counted
// but does not eject.
func (r *Record) Fail(f Failure, mustStay bool) bool {
	for {
		x := r.packed.Load()
		s := unpackRecord(x)
		if s.until != 0 && f.Now < s.until && !s.trial {
			return false // the connection was opened before the ejection
		}
		s = s.failed(f, mustStay)
		if r.packed.CompareAndSwap(x, s.pack()) {
			return s.until > f.Now
		}
	}
}

// failed is the state after a failed connection. A trial ends with the failures of two clients.
func (s recordState) failed(f Failure, mustStay bool) recordState {
	needed := max(f.Limit, 2)
	if s.until != 0 {
		needed, mustStay = 2, false
	}
	switch {
	case s.client == 0:
		s.client, s.fails = f.Client, 1
	case s.client != f.Client:
		s.several, s.fails = true, min(s.fails+1, needed)
	case s.fails < (needed+1)/2:
		s.fails++
	}
	switch {
	case s.several && s.fails >= needed && !mustStay:
		duration := min(uint32(firstEjection)<<min(uint32(s.times), 8), longestEjection)
		return recordState{until: f.Now + duration, times: min(s.times+1, 100)}
	case s.until != 0:
		s.until, s.trial = f.Now, false // the next connection tries
	}
	return s
}

// Select returns i, or another backend's index if backend i is ejected. random selects among the others.
func (p *Pool) Select(i int, random uint64, now uint32) int {
	if p.Records == nil || p.Records[i].admits(now) {
		return i
	}
	left := p.notEjected(nil)
	if p.tooFew(left) {
		return i
	}
	n := int(random % uint64(left))
	for j, r := range p.Records {
		if r.ejected() {
			continue
		}
		if n == 0 {
			return j
		}
		n--
	}
	return i // another one was ejected meanwhile
}

// Fail records a failed connection to backend i and reports whether that has ejected the backend.
func (p *Pool) Fail(i int, f Failure) bool {
	r := p.Records[i]
	return r.Fail(f, p.tooFew(p.notEjected(r)))
}

// notEjected counts the backends that are not ejected, leaving one out.
func (p *Pool) notEjected(without *Record) (n int) {
	for _, r := range p.Records {
		if r != without && !r.ejected() {
			n++
		}
	}
	return n
}

// tooFew reports whether more than half of the backends would be ejected. That many failures have their cause at this
// node rather than at the backends, so no further one is ejected.
func (p *Pool) tooFew(left int) bool { return left*2 < len(p.Backends) }
