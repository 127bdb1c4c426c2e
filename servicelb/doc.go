// Package servicelb is the Service load balancer: a stateful translator of whole packets that the agent puts between
// the TUN and WireGuard as the tunnel's hook.
//
// It owns the flow table (a memory-mapped file that outlives the process), the service table (immutable, swapped whole)
// and one goroutine that expires flows. It never opens a socket, knows nothing of Kubernetes or etcd, and configures
// nothing of the host: what must be steered to the TUN it tells in Steering.
//
// A packet's way, in the order of the files: hook.go (which case is it) -> flow.go (a flow that is known) -> or
// table.go and choose.go (a new flow to a Service: which backend) or masquerade.go (a Pod to the world) -> translate.go
// (rewrite, and where it goes next). icmp.go has errors and echoes, fragment.go what has no ports.
package servicelb
