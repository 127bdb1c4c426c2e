package announce

import "time"

// Timing is how patient the announcers are. The zero value of a field means its default; tests have less time.
type Timing struct {
	Beat     time.Duration // between heartbeats
	Dead     time.Duration // without a heartbeat a node is gone
	Listen   time.Duration // at the start a node that is silent this long counts as gone
	Calm     time.Duration // nobody came back for so long: an address may move to the node that it belongs to
	Patience time.Duration // a node that should announce and does not is passed over after this
	Probe    time.Duration // between probes for duplicates
	Handover time.Duration // that one probe waits when the address was announced by a node until now
	Retry    time.Duration // after a duplicate was found
	Repeat   time.Duration // between announcements while all is well
}

// defaults: a node is missed after 0.5 s, and with one short probe its addresses answer again well within a second. An
// agent that restarts at once listens and probes for 1.6 s at most, less than the others' patience: its addresses stay.
func (t Timing) defaults() Timing {
	for _, f := range []struct {
		at *time.Duration
		v  time.Duration
	}{{&t.Beat, 150 * time.Millisecond}, {&t.Dead, 500 * time.Millisecond}, {&t.Listen, time.Second}, {&t.Calm, 3 * time.Second},
		{&t.Patience, 2 * time.Second}, {&t.Probe, 200 * time.Millisecond}, {&t.Handover, 100 * time.Millisecond},
		{&t.Retry, 5 * time.Second}, {&t.Repeat, 10 * time.Second}} {
		if *f.at == 0 {
			*f.at = f.v
		}
	}
	return t
}

// probes is how often an address is asked for before its first announcement (RFC 5227 section 2.1.1 says three; its
// pauses of seconds are for hosts that join a network, not for an address that clients wait for).
const probes = 3

// burst is when the first announcements are sent, counted from the first one: a single one may be lost.
var burst = []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond}
