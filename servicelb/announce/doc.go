// Package announce answers on the LAN for the load balancer addresses of Services: each address is announced by one
// healthy node, by ARP (RFC 826, 5227) and neighbour discovery (RFC 4861, 4862), and by another one within a second
// after that node is gone. The addresses never become local to the host: what is sent to them arrives by the link's own
// MAC and is routed.
//
// It owns one packet socket per link and family, the multicast memberships of the addresses it announces, one UDP socket
// for heartbeats, and the goroutines of Run. Who announces is decided in core.go, which is pure: time and messages come
// in, actions go out. Everything else carries them out. The package reads no store: nodes tell each other by heartbeats
// what they announce, so that an outage of the store moves nothing.
//
// ARP packets and neighbour messages are a few fixed fields, and a packet socket is three system calls; both are written
// here rather than taken from github.com/mdlayher/{arp,ndp,packet}, which would be three more modules for less than two
// hundred lines, and none of which joins a group without an address on the link.
package announce
