package servicelb

import (
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
)

// reason is why a packet was not passed on.
type reason uint8

const (
	_ reason = iota
	dropSpoofed
	dropPeerService
	dropSourceRange
	dropPolicy
	dropNoEndpoint
	dropNoPortOfService
	dropNoAddress
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
	dropRefusal
	reasons
)

var reasonNames = [reasons]string{
	dropSpoofed: "spoofed_source", dropPeerService: "service_from_peer", dropSourceRange: "source_range",
	dropPolicy: "local_policy", dropNoEndpoint: "no_endpoint", dropNoPortOfService: "no_service_port",
	dropNoAddress: "no_service", dropNoListener: "no_listener", dropNoFlow: "no_flow", dropStale: "backend_gone",
	dropNoSource: "no_source_address", dropNoPort: "ports_exhausted", dropTableFull: "table_full", dropFlood: "flood",
	dropRace: "race", dropFamily: "family", dropFragment: "fragment", dropLeak: "pod_address", dropLoopback: "loopback", dropNoTable: "no_table", dropChecksum: "bad_checksum", dropNoPod: "no_pod", dropRefusal: "host_refusal",
}

// counters are what happens; only rare events touch them.
type counters struct {
	opened, ended atomic.Uint64
	dropped       [reasons]atomic.Uint64
}

func (b *Balancer) drop(why reason) packet.Verdict {
	b.counters.dropped[why].Add(1)
	return packet.VerdictDrop
}

// Stats is a sum over the balancer's life and its present.
type Stats struct {
	// Flows counts the flows in each state.
	Flows map[string]uint64
	// Shortcuts counts the flows that the kernel carries, or would after their next packet.
	Offloaded int
	// Opened counts new flows, Ended those whose backend or address vanished.
	Opened, Ended uint64
	// Dropped counts packets that were not passed on by reason; some of them were answered.
	Dropped map[string]uint64
	// Services has the traffic of the busiest Services ("namespace/name") and of Pods with host ports
	// ("hostPort:namespace/name"), and of all others as OtherServices.
	Services map[string]Traffic
}
