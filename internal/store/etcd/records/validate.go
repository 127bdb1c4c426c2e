package records

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Bounds of what a record may contain.
const (
	maxPerNode = 256 // endpoints, addresses and Pod CIDRs each; a record beyond it is refused as a whole
	maxPerPod  = 256 // host ports and named ports each
	maxText    = 256 // bytes of a name or another text
	minMTU     = 576 // what every IPv4 host must accept (RFC 791)
	maxMTU     = 65535
)

// parts collects the invalid parts of one record. They are left out of it; the record stays in use.
type parts []string

func (p *parts) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// filter returns the values without those that check refuses.
func filter[T any](p *parts, field string, in []T, check func(T) error) (out []T) {
	for _, x := range in {
		if err := check(x); err != nil {
			p.add("%s: %v: %v; it is ignored", field, x, err)
			continue
		}
		out = append(out, x)
	}
	return out
}

// text bounds the length of a text that nothing depends on.
func (p *parts) text(field string, s *string) {
	if len(*s) > maxText {
		p.add("%s: %d bytes, expected at most %d; it is ignored", field, len(*s), maxText)
		*s = ""
	}
}

// checkUnicast accepts the addresses that a machine or a Pod can have on a network.
func checkUnicast(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("expected an IP address")
	case a.Is4In6():
		return errors.New("expected an IPv4 address, not an IPv4-mapped one")
	case a.Zone() != "":
		return errors.New("expected an address without a zone")
	case !a.IsGlobalUnicast(): // also false for the broadcast address
		return errors.New("expected a unicast address that is neither unspecified, loopback, multicast nor link-local")
	}
	return nil
}

func checkEndpoint(e netip.AddrPort) error {
	if err := checkUnicast(e.Addr()); err != nil {
		return err
	}
	if e.Port() == 0 {
		return errors.New("expected a port from 1 to 65535")
	}
	return nil
}

func checkCIDR(p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return errors.New("expected a prefix")
	case p != p.Masked():
		return fmt.Errorf("expected the masked prefix %s", p.Masked())
	}
	return checkUnicast(p.Addr())
}

// validNode removes the invalid parts of a node's record.
func validNode(n *model.Node) (bad parts) {
	n.Endpoints = filter(&bad, "endpoints", n.Endpoints, checkEndpoint)
	n.Addresses = filter(&bad, "addresses", n.Addresses, checkUnicast)
	n.PodCIDRs = filter(&bad, "podCIDRs", n.PodCIDRs, checkCIDR)
	if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
		bad.add("mtu: %d, expected %d to %d bytes; it is ignored", n.MTU, minMTU, maxMTU)
		n.MTU = 0
	}
	bad.text("zone", &n.Zone)
	bad.text("version", &n.Version)
	return bad
}

// validPod removes the invalid parts of a Pod's record.
func validPod(p *model.Pod) (bad parts) {
	p.Addrs = filter(&bad, "addresses", p.Addrs, checkUnicast)
	p.HostPorts = filter(&bad, "host ports", p.HostPorts, func(h model.HostPort) error {
		if h.HostPort == 0 || h.ContainerPort == 0 || !known(h.Protocol) {
			return errors.New("expected a protocol and ports from 1 to 65535")
		}
		return nil
	})
	p.NamedPorts = filter(&bad, "named ports", p.NamedPorts, func(e model.EndpointPort) error {
		if e.Port == 0 || !known(e.Protocol) {
			return errors.New("expected a protocol and a port from 1 to 65535")
		}
		return nil
	})
	bad.text("zone", &p.Zone)
	bad.text("hostname", &p.Hostname)
	bad.text("subdomain", &p.Subdomain)
	return bad
}

func known(p model.Protocol) bool { return p == model.TCP || p == model.UDP || p == model.SCTP }

// checkCluster reports why the cluster's configuration cannot be used.
func checkCluster(c model.Cluster) error {
	var seen [2]bool
	for _, r := range c.PodCIDRs {
		if err := checkCIDR(r); err != nil {
			return fmt.Errorf("podCIDRs: %v: %w", r, err)
		}
		f := model.FamilyOf(r.Addr())
		if seen[f] {
			return fmt.Errorf("podCIDRs: %v: expected one range of each family", r)
		}
		seen[f] = true
		if bits := c.Bits(r); bits != 0 && (bits < r.Bits() || bits > r.Addr().BitLen()) {
			return fmt.Errorf("blockBits: %d, expected %d to %d for the range %v", bits, r.Bits(), r.Addr().BitLen(), r)
		}
	}
	return nil
}

// Claim is a block and the store's revision of its claim.
type Claim struct {
	model.Block
	Revision int64
}

// ValidClaims returns the claims that count, and a reason for each other one by its CIDR: a block must have the cluster's block
// length, lie inside a Pod range and overlap no older claim that counts.
func ValidClaims(c model.Cluster, claims []Claim) (valid []model.Block, refused map[netip.Prefix]string) {
	claims, refused = slices.Clone(claims), map[netip.Prefix]string{}
	slices.SortFunc(claims, func(a, b Claim) int {
		if a.Revision != b.Revision {
			return int(min(max(a.Revision-b.Revision, -1), 1))
		}
		return a.CIDR.Compare(b.CIDR)
	})
	for _, b := range claims {
		if why := refusal(c, valid, b.Block); why != "" {
			refused[b.CIDR] = why
			continue
		}
		valid = append(valid, b.Block)
	}
	slices.SortFunc(valid, func(a, b model.Block) int { return a.CIDR.Compare(b.CIDR) })
	return valid, refused
}

func refusal(c model.Cluster, older []model.Block, b model.Block) string {
	for _, r := range c.PodCIDRs {
		if !r.Contains(b.CIDR.Addr()) || b.CIDR.Bits() < r.Bits() {
			continue
		}
		switch bits := c.Bits(r); bits {
		case b.CIDR.Bits():
			return "" // blocks of one length overlap only if they are equal, and each has its own key
		case 0:
			return overlap(older, b)
		default:
			return fmt.Sprintf("the claim of %s has %d bits, expected %d (blockBits); it is ignored", b.Node, b.CIDR.Bits(), bits)
		}
	}
	if len(c.PodCIDRs) == 0 { // the configuration has not been read
		return overlap(older, b)
	}
	return fmt.Sprintf("the claim of %s is outside the Pod ranges %v; it is ignored", b.Node, c.PodCIDRs)
}

func overlap(older []model.Block, b model.Block) string {
	for _, o := range older {
		if o.CIDR.Overlaps(b.CIDR) {
			return fmt.Sprintf("the claim of %s overlaps the older claim of %s by node %s; it is ignored", b.Node, o.CIDR, o.Node)
		}
	}
	return ""
}
