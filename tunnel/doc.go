// Package tunnel carries the node's traffic to its peers: it joins the TUN device warren0, the WireGuard device (wireguard-go) and
// the UDP sockets, with a hook on the packet path.
//
// It owns the TUN device (persistent: it outlives the process, and the next process adopts it), its lock file, the UDP port, the
// UAPI socket of wg(8), and every goroutine that Run starts. It sets the MTU and the link state of that device and changes nothing
// else on the host: addresses, routes and rules belong to hostnet. It never sends a packet unencrypted: a packet without an owner is
// dropped and counted. It is the only package that imports wireguard-go, which is used unmodified: everything here is done through
// its three interfaces (tun.Device, conn.Bind, the log).
//
// # Packages
//
//	tunnel                        configuration, peers, handshakes, Run
//	tunnel/internal/tundev        TUN device: queues, hook, routes, GSO and GRO
//	tunnel/internal/tunfd         the kernel's TUN: file descriptors, ioctls
//	tunnel/internal/udpbind       UDP sockets: UDP_SEGMENT, UDP_GRO, sendmmsg
//	tunnel/internal/pmtud         path MTU discovery
//	tunnel/internal/uapi          text protocol and socket of wg(8)
//	tunnel/internal/route         which peer owns an address, how large packets to it may be
//	tunnel/internal/backpressure  how many packets the WireGuard device may hold
//	tunnel/internal/counters      counters and drop reasons
//	tunnel/internal/limits        sizes that the others agree on
//
// # Outbound path: from the host to a peer
//
//  1. Read a super-packet from a TUN queue and parse it once (tundev/read.go). Parallel: one goroutine per queue. The goroutine of
//     the first queue belongs to the WireGuard device, the others are RunQueue.
//  2. Hook.Outbound decides. The goroutine is that of stage 1. Reflected packets and replies are written to the same queue and end
//     here. The readers of the other queues pass packets for peers on to the first one, over a channel of frames.
//  3. Find the owner, clamp the MSS, segment to the path MTU into the WireGuard device's buffers (tundev/gso.go). Sequential: the
//     goroutine of the first queue. So packets of one flow stay in order if the kernel keeps the flow on one queue.
//  4. Assign nonces, per peer. Sequential: the same goroutine, in wireguard-go.
//  5. Encrypt. Parallel: one goroutine per processor, in wireguard-go.
//  6. Send a batch as few UDP messages (udpbind/send.go). Sequential per peer, in the order of the nonces; parallel between peers.
//
// # Inbound path: from a peer to the host
//
//  1. Receive messages of coalesced datagrams (udpbind/receive.go). Parallel: one goroutine per socket, that is per address family.
//  2. Decrypt. Parallel: one goroutine per processor, in wireguard-go.
//  3. Check nonce and source address. Sequential per peer, in wireguard-go; the stages below run in the same goroutine.
//  4. Coalesce the batch to super-packets (tundev/gro.go), clamp the MSS, take out answers to path MTU probes.
//  5. Hook.Inbound decides. A packet for a peer is passed to the first queue's reader (outbound stage 3), over the channel of frames.
//  6. Write to the first TUN queue (tundev/write.go), so that the kernel returns the flow's replies on that queue.
//
// # Locks
//
// Per packet the path takes no lock. Routes, open queues and features are atomic pointers and values; counters are atomic. Per batch,
// Bind.Send holds the read lock of the sockets. A reader that waits for the WireGuard device holds the lock of its Gate, which others
// only try. Only answers to path MTU probes take the lock of Echoes.
//
// Tunnel.mu orders SetPeers, Peers, SetMTU and the UAPI socket. It is held during calls into the WireGuard device, and is taken
// before its locks and before Device.mu. Callbacks of the WireGuard device (devicelog.go) run under its locks: they never take
// Tunnel.mu and never block, but look up byPeer, which is a sync.Map, or send to a channel with room. Device.mu guards the queues
// against reopening and closing.
//
// # Memory
//
// The WireGuard device's buffers are 64 KB each, and their number is not limited by itself. But reads wait while it holds 512 packets
// in a direction (backpressure), a peer queues at most 128 batches before a handshake, and only touched pages count. The tunnel's own
// buffers are bounded: 64 super-packets between queues, and one per reader. Measured per process: 9 MB idle, 50 to 82 MB under full
// load (40 MB without bufcolor.go; a quarter more without backpressure), where wireguard-go's own TUN and sockets take 170 to 500 MB.
package tunnel
