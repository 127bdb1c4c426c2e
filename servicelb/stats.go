package servicelb

import (
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
)

// dropReason is why a packet was not forwarded.
type dropReason uint8

const (
	notDropped dropReason = iota
	dropSpoofed
	dropPeerService
	dropSourceRange
	dropPolicy
	dropNoEndpoint
	dropNoServicePort
	dropNoService
	dropNoListener
	dropNoFlow
	dropStale
	dropNoSource
	dropNoPort
	dropTableFull
	dropFlood
	dropRace
	dropFamily
	dropFragment
	dropLeak
	dropLoopback
	dropNoTable
	dropChecksum
	dropNoPod
	dropHostRefusal
	dropTTL
	dropBalanced
	dropAnswerRate
	dropReasons
)

// dropNames are the reasons as the metrics have them.
var dropNames = [dropReasons]string{
	dropSpoofed:       "spoofed_source",
	dropPeerService:   "service_from_peer",
	dropSourceRange:   "source_range",
	dropPolicy:        "local_policy",
	dropNoEndpoint:    "no_endpoint",
	dropNoServicePort: "no_service_port",
	dropNoService:     "no_service",
	dropNoListener:    "no_listener",
	dropNoFlow:        "no_flow",
	dropStale:         "backend_gone",
	dropNoSource:      "no_source_address",
	dropNoPort:        "ports_exhausted",
	dropTableFull:     "table_full",
	dropFlood:         "flood",
	dropRace:          "race",
	dropFamily:        "family",
	dropFragment:      "fragment",
	dropLeak:          "pod_address",
	dropLoopback:      "loopback",
	dropNoTable:       "no_table",
	dropChecksum:      "bad_checksum",
	dropNoPod:         "no_pod",
	dropHostRefusal:   "host_refusal",
	dropTTL:           "ttl_exceeded",
	dropBalanced:      "balanced_before",
	dropAnswerRate:    "answer_rate",
}

// counters count rare events. Packets of established flows change none of them.
type counters struct {
	opened, ended atomic.Uint64
	dropped       [dropReasons]atomic.Uint64
}

func (c *counters) countDrop(reason dropReason) { c.dropped[reason].Add(1) }

// drop counts a dropped packet.
func (b *Balancer) drop(reason dropReason) packet.Verdict {
	b.counters.countDrop(reason)
	return packet.VerdictDrop
}

// Stats holds counters since the start of the process, and gauges of the present.
type Stats struct {
	// Flows counts the flows in each state.
	Flows map[string]uint64
	// Offloaded counts the flows that the eBPF program forwards, or will forward after their next packet.
	Offloaded int
	// Opened counts new flows, Ended those whose backend or address was removed.
	Opened, Ended uint64
	// Dropped counts packets that were not forwarded, by reason. Some of them were answered.
	Dropped map[string]uint64
	// Services has the traffic of the busiest Services ("namespace/name") and of Pods with host ports
	// ("hostPort:namespace/name"), and of all others as OtherServices.
	Services map[string]Traffic
}

// Stats returns the counters. It walks all flows: call it every few seconds, never for a packet.
func (b *Balancer) Stats() Stats {
	s := Stats{
		Flows:     b.flows.CountStates(),
		Dropped:   map[string]uint64{},
		Opened:    b.counters.opened.Load(),
		Ended:     b.counters.ended.Load(),
		Offloaded: b.offloads.Count(),
	}
	for reason := notDropped + 1; reason < dropReasons; reason++ {
		s.Dropped[dropNames[reason]] = b.counters.dropped[reason].Load()
	}
	b.collectTraffic()
	s.Services = b.ledger.Show(b.view.Load().Meters())
	return s
}
