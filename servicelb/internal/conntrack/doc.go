// Package conntrack is the flow table of the load balancer: for each flow the tuples of both directions, the state of the
// protocol, and when its last packet was seen. It corresponds to Linux' conntrack.
//
// It owns the memory of the flows, a memory-mapped file that outlives the process (file.go, header.go, restore.go), and
// the index over it. It owns no goroutine: the data path calls Sweep. It selects no backend, has no table of Services
// and does not rewrite packets.
//
// Locking: table.go. An Entry is read and changed by the holder of a lock of its shards (Locked), except for the fields
// that are atomic and those that never change while the entry is linked.
package conntrack
