package announce

import "time"

// Timing has every interval of the announcers. A field that is zero has its default; tests use shorter ones.
//
// A node counts as unreachable for the announcement of addresses when no heartbeat of it arrives for DeadInterval, or for
// linklessFactor times as long when it has no link to announce on. Only heartbeats decide: neither the handshakes of
// WireGuard nor the probes of the agent.
type Timing struct {
	HeartbeatInterval time.Duration // between two heartbeats to a node
	DeadInterval      time.Duration // without a heartbeat, then the node is unreachable and its addresses are taken over
	ListenTime        time.Duration // after the start: a node without a heartbeat for so long counts as unreachable
	StableTime        time.Duration // without a returned node, then addresses move to the node of the highest rank
	TakeoverDelay     time.Duration // per rank: a node of lower rank begins so much later
	ProbeInterval     time.Duration // between two probes for a duplicate address
	HandoverProbe     time.Duration // wait after the only probe, when a node announced the address a moment ago
	DuplicateRetry    time.Duration // wait after a duplicate address was found
	AnnounceInterval  time.Duration // between two unsolicited announcements
}

// withDefaults fills in the defaults. A node is unreachable after 0.5 s; after one short probe another node answers for
// its addresses, in less than a second. An agent that restarts listens and probes for at most 1.6 s, which is less than the
// TakeoverDelay of the others, so it keeps its addresses.
func (t Timing) withDefaults() Timing {
	for _, f := range []struct {
		at *time.Duration
		v  time.Duration
	}{
		{&t.HeartbeatInterval, 150 * time.Millisecond}, {&t.DeadInterval, 500 * time.Millisecond}, {&t.ListenTime, time.Second},
		{&t.StableTime, 3 * time.Second}, {&t.TakeoverDelay, 2 * time.Second}, {&t.ProbeInterval, 200 * time.Millisecond},
		{&t.HandoverProbe, 100 * time.Millisecond}, {&t.DuplicateRetry, 5 * time.Second}, {&t.AnnounceInterval, 10 * time.Second},
	} {
		if *f.at == 0 {
			*f.at = f.v
		}
	}
	return t
}

// probeCount is how many probes precede the first announcement (RFC 5227 section 2.1.1). The pauses of that section are
// seconds, for hosts that join a network; clients wait for this address.
const probeCount = 3

// initialAnnouncements are the times of the first announcements, from the first one on: a single frame may be lost.
var initialAnnouncements = []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond}
