package model

// Nameservers say who answers names that are not the cluster's: servers as "addr" or "addr:port".
type Nameservers struct {
	Upstreams   []string            // of every name; none: the node's own
	StubDomains map[string][]string // of a zone and everything below it
}
