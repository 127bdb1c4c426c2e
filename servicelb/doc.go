// Package servicelb is the Service load balancer: it translates whole packets between the TUN and WireGuard, as the hook
// of package tunnel. It does in userspace what kube-proxy and Linux' conntrack do with netfilter.
//
// It owns the flow table (servicelb/internal/conntrack), the current table of Services (servicelb/internal/table) and one
// goroutine, Run, that ends idle flows. It opens no socket, has no client of Kubernetes or etcd, and configures nothing on
// the host: what must be redirected to the TUN is returned by Table.Redirects.
//
// The path of a packet, in the order of the files:
//
//	hook.go           verify the source, classify the packet, decide about packets without a flow
//	established.go    a packet of a flow: confirm the backend, follow the state, translate
//	newflow.go        the first packet to a Service: select a backend, insert the flow
//	sourceaddress.go  whose address the backend sees
//	egress.go         the first packet from a Pod to an external network: masquerade it
//	forward.go        time to live of packets that the kernel does not forward
//	icmp.go           ICMP errors and echo; packets that the agent's raw sockets have received
//	fragment.go       fragments, which have no ports
//	reject.go         RST and ICMP port unreachable
//	peerreset.go      RST to the other end of a connection that was torn down
//
// In addition: ejection.go removes failing backends from selection, udpreplysource.go restores the source address of
// replies from this node, offload*.go let the kernel forward flows between Pods of this node (package offload), and
// traffic.go, stats.go and inspect.go report.
//
// The packet path allocates nothing, takes one lock and reads no clock. Tables are immutable and swapped atomically.
package servicelb
