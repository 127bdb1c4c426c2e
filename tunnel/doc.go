// Package tunnel carries the node's traffic to its peers: the TUN device warren0, the WireGuard engine and the UDP
// sockets, with a hook on the packet's way.
//
// It owns the TUN device (persistent: it outlives the process, and the next one adopts it), its lock file, the UDP
// port, the UAPI socket that wg(8) talks to, and every goroutine started by Run. It sets that device's MTU and link
// state and nothing else of the host: addresses, routes and rules belong to hostnet. It never sends a packet in
// clear: what no peer owns is dropped and counted. It is the only package that imports the WireGuard engine, which
// stays as published; everything here is done through its three seams (tun.Device, conn.Bind, the log).
//
// Memory: the engine's buffers are 64 KB each and their number has no limit of its own, but reading rests while it has 512
// packets in a direction (backlog.go), a peer queues at most 128 batches before a handshake, and only touched pages count.
// Own buffers are bounded: 64 super-packets between queues, one per reader. Measured per process: 9 MB idle, 50 to 82 MB
// under full load (40 MB without stagger.go; all of that without backlog.go, which takes a quarter off), where wireguard-go's
// own TUN and sockets take 170 to 500 MB.
//
// A packet's way out: kernel -> read.go (super-packet, parse once) -> Hook.Outbound -> route.go (owner, MTU) ->
// cut.go (segments in the engine's buffers) -> engine -> send.go (UDP_SEGMENT). Its way in: recv.go (UDP_GRO) ->
// engine -> write.go and join.go (super-packets again) -> Hook.Inbound -> kernel.
package tunnel
