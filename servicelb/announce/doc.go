// Package announce announces load balancer addresses of Services on the local links, as MetalLB does in layer 2 mode. One
// healthy node announces each address: it answers ARP (RFC 826, RFC 5227) and neighbor solicitations (RFC 4861, RFC 4862)
// for it. When that node is unreachable, another one takes over within a second.
//
// # What it owns
//
// An Announcer owns one packet socket per link and family, the multicast memberships of the addresses it announces, one UDP
// socket for heartbeats (port 9552), and the goroutines of Run. The addresses never become local to the host: packets to
// them arrive at the link's own MAC and are routed. The package never reads the store. Nodes exchange their claims in
// heartbeats through the tunnel, so an outage of the store moves no address.
//
// # Files
//
//	election.go    rules: which node announces an address. Pure: time and messages come in, actions go out
//	address.go     state of one address
//	member.go      the other nodes and their heartbeats
//	heartbeat.go   the heartbeat in wire form
//	envelope.go    authentication of heartbeats, protection against replay
//	rendezvous.go  order of the nodes for an address
//	timing.go      every interval, with its effect
//	announcer.go   Run: executes the actions, reads heartbeats and links
//	link.go        packet sockets and multicast groups of one link
//	frame.go arp.go ndp.go protocol.go   Ethernet, ARP and neighbor discovery
//	view.go        the state that `warren lb` and the metrics report
//
// # Settings, metrics, limits
//
// The agent sets Desired from the plan. The metrics are warren_lb_announced_addresses, warren_lb_addresses,
// warren_lb_takeovers_total, warren_lb_duplicates_total and warren_lb_peers_healthy. A heartbeat has at most 32 claims; a
// node with more sends them in turn. Links are Ethernet; an address is announced on links whose subnet contains it, or on
// all links with Desired.AnyLink.
//
// # Own code in place of a library
//
// ARP and neighbor messages have a few fixed fields, and a packet socket takes three system calls. The packages arp, ndp
// and packet of github.com/mdlayher would add three modules and their dependencies for less than two hundred lines. None of
// them joins the solicited-node group of an address that the link does not have.
package announce
