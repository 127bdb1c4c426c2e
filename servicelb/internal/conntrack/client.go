package conntrack

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// Client is who flows are accounted to: a bucket of the counters, and whether the network verifies the address. Clients
// share buckets by hash.
type Client uint16

// Verification is what binds a source address to its sender.
type Verification uint8

// The kinds of verification.
const (
	Unverified Verification = iota // an external client: any number of source addresses costs its sender nothing
	Verified                       // a Pod or a node: the source filter of its interface, or its WireGuard key
)

// ClientBuckets is the number of buckets.
const ClientBuckets = clientBuckets

const (
	// clientBuckets is how many counters there are. That two clients share one is unlikely, and no client can choose with
	// whom: the hash is keyed.
	clientBuckets = 1 << 15

	verifiedClient Client = 1 << 15
)

// Client returns the account of a client's address.
func (t *Table) Client(a netip.Addr, v Verification) Client {
	b := a.As16()
	c := Client(maphash.Bytes(t.seed, b[:]) % clientBuckets)
	if v == Verified {
		c |= verifiedClient
	}
	return c
}

// Bucket returns the client's bucket, below ClientBuckets.
func (c Client) Bucket() uint32 { return uint32(c) % clientBuckets }

func (c Client) verified() bool { return c&verifiedClient != 0 }

// clientCount counts the flows of one client.
type clientCount struct{ all, halfOpen atomic.Int32 }

// clientCounts counts all flows and the half-open flows of each client, and the flows of all unverified
// clients.
type clientCounts struct {
	buckets    [clientBuckets]clientCount
	unverified atomic.Int32
}

func (c *clientCounts) of(client Client) *clientCount { return &c.buckets[client.Bucket()] }

func (c *clientCounts) add(client Client, status Status, by int32) {
	n := c.of(client)
	n.all.Add(by)
	if status.HalfOpen() {
		n.halfOpen.Add(by)
	}
	if !client.verified() {
		c.unverified.Add(by)
	}
}

func (c *clientCounts) leaveHalfOpen(client Client) { c.of(client).halfOpen.Add(-1) }
