// Package servicelb is the Service load balancer: a stateful translator of whole packets that the agent puts between
// the TUN and WireGuard as the tunnel's hook.
//
// It owns the flow table (a memory-mapped file that outlives the process), the service table (immutable, swapped whole)
// and one goroutine that expires flows. It never opens a socket, knows nothing of Kubernetes or etcd, and configures
// nothing of the host: what must be steered to the TUN it tells in Steering.
//
// A packet's way, in the order of the files: hook.go (which case is it) -> known.go (a flow that is known) -> or
// open.go and choose.go (a new flow to a Service: whose source, which backend) or masquerade.go (a Pod to the world) ->
// answer.go (refusals). eject.go keeps backends that fail out of the choice. icmp.go has errors and echoes, fragment.go
// what has no ports. farewell.go tells both ends of a connection that is over. flows.go is the table of flows: entry.go
// one flow, state.go its state, admit.go who gets in and who makes room, file.go and adopt.go the restart. A table of
// Services is built by build.go from units (unit.go) of what has changed (diff.go).
package servicelb
