package model

// Nameservers are the DNS servers for names outside of the cluster domain, as "addr" or "addr:port".
type Nameservers struct {
	Upstreams   []string            // for every name; empty: those of the node
	StubDomains map[string][]string // zone -> servers for the zone and everything below it
}
