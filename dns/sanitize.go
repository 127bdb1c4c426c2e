package dns

import "github.com/miekg/dns"

// restoreCase takes our random capitals out again: the client gave no such spelling.
func restoreCase(r dns.RR) {
	r.Header().Name = dns.CanonicalName(r.Header().Name)
	if c, ok := r.(*dns.CNAME); ok {
		c.Target = dns.CanonicalName(c.Target)
	}
}

// sanitize keeps what belongs to the question: the chain of aliases from its name and the records at the chain's end, the
// SOA of a negative answer, and signatures for who asked for them. Everything else could only do harm.
func sanitize(m *dns.Msg, k cacheKey) {
	do := k.flags&1 != 0
	m.Extra = nil
	at := decodeName([]byte(k.name))
	var keep []dns.RR
	chain := map[string]bool{dns.CanonicalName(at): true}
	for range 16 { // upstream may say them in any order
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
	for _, r := range m.Answer {
		t := r.Header().Rrtype
		signature := t == dns.TypeRRSIG && do
		alias := t == dns.TypeCNAME || t == dns.TypeDNAME
		if r.Header().Class == dns.ClassINET && (chain[dns.CanonicalName(r.Header().Name)] || t == dns.TypeDNAME) && (t == k.typ || alias || signature) {
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
