package tunnel

// How large a packet the path to a peer carries, found by asking it (RFC 8899, with echo requests inside the tunnel as
// probes). What the ends' own links promise is where it begins: a router, another tunnel or a switch between them may
// carry less, and say so by an ICMP error that a firewall eats, or not at all.

// outcome is what became of a question of some size.
type outcome uint8

const (
	silent  outcome = iota // not even a small question was answered: nothing is known
	lost                   // small ones are answered, this size is not
	arrived                // answered
)

// The engine pads packets to multiples of 16, so only those sizes differ on the wire (but for the device's own MTU).
const sizeStep = 16

// path is what is asked about.
type path struct {
	limit int  // bytes found before, 0 if none
	top   int  // bytes, of the smaller end
	floor int  // bytes, what a path must carry
	raise bool // look for more than limit
}

// start is the size that is thought to arrive.
func (p path) start() int {
	if p.limit != 0 && p.limit < p.top {
		return p.limit
	}
	return p.top
}

// search returns the largest size from floor to top that arrives, 0 for top itself. ok is false if the peer fell silent.
func (p path) search(ask func(size int) outcome) (limit int, ok bool) {
	start := p.start()
	low, high := p.floor, start
	switch ask(start) {
	case silent:
		return p.limit, false
	case arrived:
		if start == p.top {
			return 0, true
		}
		if !p.raise {
			return start, true
		}
		if got := ask(p.top); got != lost {
			return 0, got == arrived
		}
		low, high = start, p.top
	case lost:
		if got := ask(p.floor); got != arrived {
			return p.floor, got == lost
		}
	}
	for high-low > sizeStep {
		mid := max((low+high)/2&^(sizeStep-1), low+sizeStep)
		switch ask(mid) {
		case silent:
			return p.limit, false
		case arrived:
			low = mid
		case lost:
			high = mid
		}
	}
	return low, true
}
