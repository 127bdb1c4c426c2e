package zone

import (
	"fmt"
	"net/netip"
)

// Bounds of what one object may add to the zone. A Service beyond them is served without the rest, and reported.
const (
	maxNamesPerAddress = 16      // host names of one address in a Service, and PTR records of one address
	maxHostNames       = 1 << 15 // of one Service
	maxSRVTargets      = 1 << 16 // of one Service: ports times endpoints
)

// caps counts the names and records of one Service.
type caps struct {
	named      map[netip.Addr]int // endpoints with a host name, by address
	hosts, srv int
	cutHosts   int // that are not served
	cutSRV     int
}

// admitHost reports whether a host name is served. known: an endpoint before it has the same name.
func (c *caps) admitHost(hostname string, a netip.Addr, known int) bool {
	if known == 0 && c.hosts >= maxHostNames || hostname != "" && c.named[a] >= maxNamesPerAddress {
		c.cutHosts++
		return false
	}
	if known == 0 {
		c.hosts++
	}
	if hostname != "" {
		if c.named == nil {
			c.named = map[netip.Addr]int{}
		}
		c.named[a]++
	}
	return true
}

func (c *caps) admitSRV() bool {
	if c.srv >= maxSRVTargets {
		c.cutSRV++
		return false
	}
	c.srv++
	return true
}

// problem describes what is not served, "" for nothing.
func (c *caps) problem(service string) string {
	switch {
	case c.cutHosts > 0:
		return fmt.Sprintf("DNS: Service %s: %d endpoints have no name: at most %d host names of one address and %d names of one "+
			"Service are served; remove host names from its EndpointSlices", service, c.cutHosts, maxNamesPerAddress, maxHostNames)
	case c.cutSRV > 0:
		return fmt.Sprintf("DNS: Service %s: %d SRV records are not served: at most %d of one Service, ports times endpoints; "+
			"remove ports from its EndpointSlices", service, c.cutSRV, maxSRVTargets)
	}
	return ""
}
