package forward

import (
	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
)

// maxCNAMEs bounds the CNAME chain of one answer.
const maxCNAMEs = 16

// sanitize drops out-of-bailiwick records (RFC 5452) from an answer. It keeps the CNAME chain that starts at the queried
// name, the records at the end of the chain, the SOA of a negative answer, and signatures when the client set DO.
func sanitize(m *dns.Msg, k cacheKey) {
	do := k.flags&flagDO != 0
	chain := cnameChain(m, k)
	m.Extra = nil
	var keep []dns.RR
	for _, r := range m.Answer {
		t := r.Header().Rrtype
		signature := t == dns.TypeRRSIG && do
		alias := t == dns.TypeCNAME || t == dns.TypeDNAME
		owner := chain[dns.CanonicalName(r.Header().Name)] || t == dns.TypeDNAME
		if r.Header().Class == dns.ClassINET && owner && (t == k.typ || alias || signature) {
			restoreCase(r)
			keep = append(keep, r)
		}
	}
	m.Answer, keep = keep, nil
	for _, r := range m.Ns {
		switch r.Header().Rrtype {
		case dns.TypeSOA:
			if len(m.Answer) == 0 || m.Answer[len(m.Answer)-1].Header().Rrtype == dns.TypeCNAME {
				keep = append(keep, r)
			}
		case dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG, dns.TypeDS:
			if do {
				keep = append(keep, r)
			}
		}
	}
	m.Ns = keep
}

// cnameChain returns the canonical names of the CNAME chain from the queried name. Upstreams send the records in any order.
func cnameChain(m *dns.Msg, k cacheKey) map[string]bool {
	chain := map[string]bool{dns.CanonicalName(wire.DecodeName([]byte(k.name))): true}
	for range maxCNAMEs {
		grown := false
		for _, r := range m.Answer {
			if c, ok := r.(*dns.CNAME); ok && chain[dns.CanonicalName(c.Hdr.Name)] && !chain[dns.CanonicalName(c.Target)] {
				chain[dns.CanonicalName(c.Target)], grown = true, true
			}
		}
		if !grown {
			break
		}
	}
	return chain
}

// restoreCase undoes the 0x20 case randomization of exchange: the client did not send that spelling.
func restoreCase(r dns.RR) {
	r.Header().Name = dns.CanonicalName(r.Header().Name)
	if c, ok := r.(*dns.CNAME); ok {
		c.Target = dns.CanonicalName(c.Target)
	}
}
