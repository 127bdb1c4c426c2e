package dns

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Search is a Pod's own resolver configuration, as far as it decides which names the Pod asks for.
type Search struct {
	Namespace string
	Domains   []string // the search list, in its order
	NDots     int
}

// The bounds of completion. What every resolver reads of a search list is six domains and 256 bytes: glibc before 2.26
// cuts there and musl forgets the list. Beyond that nobody knows which name a Pod would ask for next.
const (
	autopathTimeout  = 200 * time.Millisecond // a client waits so long for a shortcut, then it goes the long way
	decisionTTL      = time.Second            // A and AAAA of one lookup get the same decision
	maxDecisions     = 4096
	maxSearchDomains = 6
	maxSearchBytes   = 255
	maxNDots         = 15 // RES_MAXNDOTS
)

// searchList is a Search as the server uses it.
type searchList struct {
	first    string // "<namespace>.svc.<domain>" in wire form
	labels   int    // of first
	next     []string
	complete bool // next is all of it: behind it comes the name as it was given
	ndots    int
}

// SetSearches says which clients get their search lists completed: when the first name of the list does not exist, the
// answer is an alias of the first one that does. A list that is not a Pod's usual one (its namespace, "svc" and the
// domain first, in this order) is never completed, because then nobody knows what the client asks for.
func (s *Server) SetSearches(of map[netip.Addr]Search) {
	lists := make(map[netip.Addr]*searchList, len(of))
	for a, c := range of {
		if l := s.zone.searchList(c); l != nil {
			lists[a.Unmap()] = l
		}
	}
	if was := s.searches.Load(); was != nil && maps.EqualFunc(*was, lists, (*searchList).same) {
		return
	}
	s.searches.Store(&lists)
}

func (l *searchList) same(o *searchList) bool {
	return l.first == o.first && l.complete == o.complete && l.ndots == o.ndots && slices.Equal(l.next, o.next)
}

// searchList reads a Search; nil when it is not to be completed.
func (z *zoneConfig) searchList(c Search) *searchList {
	ns, err := appendLabel(nil, c.Namespace)
	svc := "\x03svc" + z.domain
	usual := []string{string(ns) + svc, svc, z.domain}
	if err != nil || len(c.Domains) < len(usual) || c.NDots < 1 {
		return nil
	}
	l := &searchList{first: usual[0], labels: z.labels + 2, complete: true, ndots: min(c.NDots, maxNDots)}
	size := 0
	for i, d := range c.Domains {
		size += len(d) + 1
		w, err := encodeName(d)
		switch {
		case i < len(usual) && (err != nil || w != usual[i]):
			return nil
		case i == 0:
		case w == "\x00" && i == len(c.Domains)-1 && d == ".":
			return l // "." at the end is what comes next anyway
		case err != nil || len(w) < 2 || i >= maxSearchDomains || size > maxSearchBytes:
			l.complete = false // "." in the middle too: resolvers differ
			return l
		default:
			l.next = append(l.next, w)
		}
	}
	return l
}

// autopathApplies reports whether a question whose name does not exist is a step of its client's search list, and one that a
// later step may answer. It allocates nothing.
func (s *Server) autopathApplies(q *query, from netip.Addr) bool {
	lists := s.searches.Load()
	return lists != nil && (*lists)[from].applies(q)
}

// applies: an address was asked for by a resolver that searches (fewer dots than ndots), of more than one label (those
// are names of the cluster), without DNSSEC, in plain letters.
func (l *searchList) applies(q *query) bool {
	if l == nil || q.typ != typeA && q.typ != typeAAAA || !q.recursionDesired || q.dnssecOK || q.checkingDisabled || !q.inZone(l.first, l.labels) {
		return false
	}
	rest := q.labels - l.labels
	if rest < 2 || rest-1 >= l.ndots {
		return false
	}
	for i := range rest {
		for _, c := range q.label(i)[1:] {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// candidates is what a search list makes of one name behind its first step.
type candidates struct {
	external []*query // names of others, in their order, that come before here
	cluster  *query   // the first name of our own that exists, nil for none
	result   result   // of here
}

// autopath answers a step of a search list with what the whole list leads to, or nil: then the exact NXDOMAIN of this
// step is due, and the client goes on by itself. It never fails and waits for upstream only a moment.
func (s *Server) autopath(ctx context.Context, q *query, x *index) *message {
	if !s.autopathApplies(q, q.client) || x.below(q) {
		return nil
	}
	c, ok := (*s.searches.Load())[q.client].candidates(q, x)
	if !ok {
		return nil
	}
	var real string
	var got familyRecords
	if len(c.external) > 0 {
		d := s.firstExisting(ctx, c.external)
		switch {
		case d.failed:
			return nil
		case d.name != "":
			real, got = d.name, d.of[kindOf(q.typ)]
		}
	}
	if real == "" {
		if c.cluster == nil {
			return nil
		}
		in := new(dns.Msg)
		if in.Unpack(c.cluster.local(nil, x, c.result, 0, tcpSize)) != nil {
			return nil
		}
		real, got = decodeName(c.cluster.name), familyRecords{in.Answer, in.Ns}
	}
	out := &dns.Msg{Question: []dns.Question{{Qtype: q.typ}}, Ns: got.authority}
	out.Answer = append(out.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: decodeName(q.name), Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: x.config.ttl}, Target: real})
	out.Answer = append(out.Answer, got.answer...)
	m, err := newMessage(out, string(q.name))
	if err != nil {
		return nil
	}
	return m
}

// candidates walks the known part of the list behind the first step. It ends at a name of ours that exists; a name at or below a Service that
// has none now (a Pod that is not ready) ends it too, with nothing: upstream must never answer for it.
func (l *searchList) candidates(q *query, x *index) (c candidates, ok bool) {
	rest := string(q.name[:q.offset(q.labels-l.labels)])
	steps := l.next
	if l.complete {
		steps = append(slices.Clip(steps), "\x00")
	}
	for _, domain := range steps {
		sub := &query{}
		if sub.parse(withName(q, rest+domain)) != simple {
			return c, false // too long: some resolvers skip it, some stop
		}
		switch f := x.find(sub); {
		case f.zone == zoneExternal:
			c.external = append(c.external, sub)
		case f.chase != nil || f.loopProbe:
			return c, false
		case f.rcode != rcodeNXDomain:
			c.cluster, c.result = sub, f
			return c, true
		case x.below(sub):
			return c, false
		}
	}
	return c, true
}

// below reports whether a name is that of an existing Service, or lies below one. A headless Service without ready
// endpoints exists here, though its name does not.
func (x *index) below(q *query) bool {
	if !q.inZone(x.config.domain, x.config.labels) {
		return false
	}
	n := q.labels - x.config.labels - 1 // labels left of "svc"
	if n < 2 || string(q.label(n)) != "\x03svc" {
		return false
	}
	key := q.name[q.offset(n-2):q.offset(n)]
	_, idle := x.unready[string(key)]
	return idle || x.services[string(key)] != nil
}

// familyRecords are the answer to one type.
type familyRecords struct{ answer, authority []dns.RR }

func kindOf(typ uint16) int {
	if typ == typeAAAA {
		return 1
	}
	return 0
}

// decision is which of several outside names comes first, for both families: one lookup of a client asks for both, and
// must not be told two different things.
type decision struct {
	done   chan struct{}
	until  time.Time
	failed bool   // upstream did not say in time
	name   string // "": none of them exists
	of     [2]familyRecords
}

type decisions struct {
	mu sync.Mutex
	m  map[string]*decision
}

// firstExisting finds the first name that exists, or takes the decision that was made a moment ago.
func (s *Server) firstExisting(ctx context.Context, names []*query) *decision {
	now := time.Now()
	d, mine := s.decisions.join(s.decisionKey(names), now)
	if mine {
		s.decide(ctx, d, names)
		close(d.done)
		return d
	}
	select {
	case <-d.done:
		return d
	case <-ctx.Done():
		return &decision{failed: true}
	}
}

// decisionKey names the question and the upstreams that answer it: others may decide otherwise.
func (s *Server) decisionKey(names []*query) string {
	var b strings.Builder
	r := s.routes.Load()
	for _, n := range names {
		b.WriteString(strconv.FormatUint(uint64(r.pick(n).id), 36))
		b.Write(n.name)
	}
	return b.String()
}

// join returns the decision under that key, and whether the caller has to make it.
func (d *decisions) join(key string, now time.Time) (*decision, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if have := d.m[key]; have != nil && now.Before(have.until) {
		return have, false
	}
	if len(d.m) >= maxDecisions {
		maps.DeleteFunc(d.m, func(_ string, x *decision) bool { return !now.Before(x.until) })
	}
	made := &decision{done: make(chan struct{}), until: now.Add(decisionTTL)}
	if len(d.m) < maxDecisions {
		d.m[key] = made
	}
	return made, true
}

// decide asks for both families of each name in turn.
func (s *Server) decide(ctx context.Context, d *decision, names []*query) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.autopathTimeout)
	defer cancel()
	for _, n := range names {
		exists, ok := s.queryBothFamilies(ctx, d, n)
		switch {
		case !ok:
			d.failed = true
			return
		case exists:
			d.name = decodeName(n.name)
			return
		}
	}
}

// queryBothFamilies asks for A and AAAA of a name at once. ok is false when upstream does not say.
func (s *Server) queryBothFamilies(ctx context.Context, d *decision, n *query) (exists, ok bool) {
	type part struct {
		m    *message
		rule ttlRule
		q    *query
	}
	parts := [2]part{}
	var wg sync.WaitGroup
	for i, typ := range [2]uint16{typeA, typeAAAA} {
		wg.Go(func() {
			q := &query{}
			n := *n
			n.typ = typ
			if q.parse(withName(&n, string(n.name))) == simple {
				m, rule, _ := s.external(ctx, q)
				parts[i] = part{m, rule, q}
			}
		})
	}
	wg.Wait()
	for i, p := range parts {
		if p.m == nil || p.m.rcode != rcodeOK && p.m.rcode != rcodeNXDomain {
			return false, false
		}
		in := new(dns.Msg)
		if in.Unpack(p.q.message(nil, p.m, p.rule, tcpSize)) != nil || in.Truncated {
			return false, false
		}
		d.of[i] = familyRecords{s.shortLived(in.Answer), s.shortLived(in.Ns)}
		exists = exists || p.m.rcode == rcodeOK
	}
	return exists, true
}

// shortLived bounds TTLs by those of cluster names: the question is one, and tomorrow it may have an answer of its own.
func (s *Server) shortLived(rr []dns.RR) []dns.RR {
	for _, r := range rr {
		r.Header().Ttl = min(r.Header().Ttl, s.zone.ttl)
		if soa, ok := r.(*dns.SOA); ok {
			soa.Minttl = min(soa.Minttl, s.zone.ttl)
		}
	}
	return rr
}
