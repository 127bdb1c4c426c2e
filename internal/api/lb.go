package api

import "net/netip"

// LBPath returns the load balancer addresses: the pools, the Services that hold addresses, and the announcing nodes.
const LBPath = "/v1/lb" // GET -> LB

// LB is the state of load balancer addresses in this node's snapshot.
type LB struct {
	Pools    []LBPool    `json:"pools"`
	Services []LBService `json:"services"`
	// Nodes are the other nodes as the heartbeats of announcements show them.
	Nodes []LBNode `json:"nodes"`
	// Problems concern all addresses.
	Problems []string `json:"problems,omitempty"`
}

// LBPool is an address pool.
type LBPool struct {
	Name       string   `json:"name"`
	Addresses  []string `json:"addresses"`
	AutoAssign bool     `json:"autoAssign"`
	Namespaces []string `json:"namespaces,omitempty"`
	Priority   int      `json:"priority,omitempty"`
	Used       uint64   `json:"used"`
	Free       uint64   `json:"free"` // a range counts 2^32 addresses at most
}

// LBService is a Service of type LoadBalancer that warren serves.
type LBService struct {
	Service   string      `json:"service"` // namespace/name
	Addresses []LBAddress `json:"addresses"`
	Pending   []string    `json:"pending,omitempty"` // why it lacks addresses
}

// LBAddress is one address of a Service.
type LBAddress struct {
	Address netip.Addr `json:"address"`
	Pool    string     `json:"pool,omitempty"` // "" if its pool was deleted
	// Announcer is the announcing node as seen by this node, "" for none; Epoch is that of its claim.
	Announcer string `json:"announcer,omitempty"`
	Epoch     uint64 `json:"epoch,omitempty"`
	State     string `json:"state"` // of this node: idle, probing, waiting, announcing, off
	Note      string `json:"note,omitempty"`
}

// LBNode is another node.
type LBNode struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
}
