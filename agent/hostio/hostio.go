// Package hostio owns the agent's sockets on the host: raw sockets that receive what policy routing does not redirect to the TUN
// (ICMP and UDP that the kernel has reassembled), UDP sinks, the relays on ::1, the listeners for health check node ports and the
// ports of kube-proxy's API. It also scans the sockets of other host programs.
//
// Each type has a complete constructor, Set with the desired state, and Close or Run. Close and Run return only after every
// goroutine of the type has ended. Set and Close of one value are called by one goroutine. The package reads no snapshot, makes no
// plan and never ends the process: a socket that cannot be opened is logged and retried with the next Set.
package hostio
