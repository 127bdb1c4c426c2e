package dns

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/warrennet/warren/dns/forward"
	"github.com/warrennet/warren/dns/wire"
	"github.com/warrennet/warren/dns/zone"
)

// Search is the search list of a Pod, from its resolver configuration.
type Search struct {
	Namespace string
	Domains   []string // the search list, in its order
	NDots     int
}

// Bounds of autopath. Every resolver reads six domains and 256 bytes of a search list. A longer list is cut by glibc
// before 2.26 and ignored by musl, so the names that follow are not predictable.
const (
	autopathTimeout  = 200 * time.Millisecond // wait for upstreams; after that the client continues with its search list
	decisionTTL      = time.Second            // A and AAAA of one lookup get the same decision
	maxDecisions     = 4096
	maxSearchDomains = 6
	maxSearchBytes   = 255
	maxNDots         = 15 // RES_MAXNDOTS
)

// autopath completes the search lists of Pods, as CoreDNS autopath does: when the first name of a list does not exist,
// the answer is a CNAME of the first name of the list that does.
type autopath struct {
	lists atomic.Pointer[map[netip.Addr]*searchList] // by client

	mu        sync.Mutex
	decisions map[string]*decision
}

// searchList is a Search in the form that answers are computed from.
type searchList struct {
	first    string   // "<namespace>.svc.<domain>" in wire form
	labels   int      // of first
	next     []string // the domains after first
	complete bool     // next is the whole list; the name without a domain follows
	ndots    int
}

// SetSearches sets the clients whose search lists are completed. A list is used only when it begins as Kubernetes writes
// it: the namespace's domain, "svc" and the cluster domain. The order of the names of other lists is not predictable.
func (s *Server) SetSearches(of map[netip.Addr]Search) {
	lists := make(map[netip.Addr]*searchList, len(of))
	for a, c := range of {
		if l := newSearchList(s.zone, c); l != nil {
			lists[a.Unmap()] = l
		}
	}
	if was := s.autopath.lists.Load(); was != nil && maps.EqualFunc(*was, lists, (*searchList).equal) {
		return
	}
	s.autopath.lists.Store(&lists)
}

func (l *searchList) equal(o *searchList) bool {
	return l.first == o.first && l.complete == o.complete && l.ndots == o.ndots && slices.Equal(l.next, o.next)
}

// newSearchList converts a Search. It returns nil for a list that autopath does not complete.
func newSearchList(z *zone.Config, c Search) *searchList {
	ns, err := wire.AppendLabel(nil, c.Namespace)
	svc := "\x03svc" + z.Domain
	standard := []string{string(ns) + svc, svc, z.Domain}
	if err != nil || len(c.Domains) < len(standard) || c.NDots < 1 {
		return nil
	}
	l := &searchList{first: standard[0], labels: z.Labels + 2, complete: true, ndots: min(c.NDots, maxNDots)}
	size := 0
	for i, d := range c.Domains {
		size += len(d) + 1
		w, err := wire.EncodeName(d)
		switch {
		case i < len(standard) && (err != nil || w != standard[i]):
			return nil
		case i == 0:
		case w == "\x00" && i == len(c.Domains)-1 && d == ".":
			return l // a final "." is the name without a domain, which follows anyway
		case err != nil || len(w) < 2 || i >= maxSearchDomains || size > maxSearchBytes:
			l.complete = false // resolvers differ from here on, also about "." in the middle
			return l
		default:
			l.next = append(l.next, w)
		}
	}
	return l
}

// applies reports whether a question whose name does not exist is the first step of its client's search list, and a later
// step may have an answer. It allocates nothing.
func (a *autopath) applies(q *wire.Query, client netip.Addr) bool {
	lists := a.lists.Load()
	return lists != nil && (*lists)[client].applies(q)
}

// applies checks the question: type A or AAAA, recursion desired, no DNSSEC, fewer dots than ndots, host name characters,
// and more than one label, because a single label is a name of the cluster.
func (l *searchList) applies(q *wire.Query) bool {
	if l == nil || q.Type != wire.TypeA && q.Type != wire.TypeAAAA || !q.InZone(l.first, l.labels) {
		return false
	}
	if !q.RecursionDesired || q.DNSSECOK || q.CheckingDisabled {
		return false
	}
	rest := q.Labels - l.labels
	if rest < 2 || rest-1 >= l.ndots {
		return false
	}
	for i := range rest {
		for _, c := range q.Label(i)[1:] {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// candidates are the names that a search list makes of one name, after its first step.
type candidates struct {
	external []*wire.Query // external names before cluster, in their order
	cluster  *wire.Query   // the first cluster name that exists, nil for none
	result   zone.Result   // of cluster
}

// completeSearch answers the first step of a search list with the result of the whole list. nil means that the NXDOMAIN
// of the step is the answer, and the client continues with its list. It never fails, and waits at most autopathTimeout.
func (s *Server) completeSearch(ctx context.Context, q *wire.Query, x *zone.Index) *forward.Message {
	if !s.autopath.applies(q, q.Client) || x.UnderService(q) {
		return nil
	}
	c, ok := (*s.autopath.lists.Load())[q.Client].candidates(q, x)
	if !ok {
		return nil
	}
	var target string
	var got familyRecords
	if len(c.external) > 0 {
		d := s.firstExisting(ctx, c.external)
		switch {
		case d.failed:
			return nil
		case d.name != "":
			target, got = d.name, d.records[familyIndex(q.Type)]
		}
	}
	if target == "" {
		if c.cluster == nil {
			return nil
		}
		in := new(dns.Msg)
		if in.Unpack(x.Answer(nil, c.cluster, c.result, 0, wire.TCPSize)) != nil {
			return nil
		}
		target, got = wire.DecodeName(c.cluster.Name), familyRecords{in.Answer, in.Ns}
	}
	out := &dns.Msg{Question: []dns.Question{{Qtype: q.Type}}, Ns: got.authority}
	out.Answer = append(out.Answer, newCNAME(wire.DecodeName(q.Name), target, x.TTL()))
	out.Answer = append(out.Answer, got.answer...)
	m, err := forward.NewMessage(out, string(q.Name))
	if err != nil {
		return nil
	}
	return m
}

// candidates walks the list after its first step. It ends at a cluster name that exists. It returns false when the end of
// the list is not predictable, and at a name at or below a Service without names, such as a Pod that is not ready: an
// upstream must never answer for it.
func (l *searchList) candidates(q *wire.Query, x *zone.Index) (c candidates, ok bool) {
	rest := string(q.Name[:q.Offset(q.Labels-l.labels)])
	steps := l.next
	if l.complete {
		steps = append(slices.Clip(steps), "\x00")
	}
	for _, domain := range steps {
		sub := &wire.Query{}
		if sub.Parse(q.WithName(rest+domain)) != wire.Simple {
			return c, false // too long: some resolvers skip it, others stop
		}
		switch r := x.Find(sub); {
		case r.Zone == zone.External:
			sub.Client = q.Client
			c.external = append(c.external, sub)
		case r.Alias != "" || r.LoopProbe:
			return c, false
		case r.Rcode != wire.RcodeNXDomain:
			c.cluster, c.result = sub, r
			return c, true
		case x.UnderService(sub):
			return c, false
		}
	}
	return c, true
}

// familyRecords are the records of the answer to one question type.
type familyRecords struct{ answer, authority []dns.RR }

// familyIndex is the index of a question type in decision.records.
func familyIndex(typ uint16) int {
	if typ == wire.TypeAAAA {
		return 1
	}
	return 0
}

// decision is which of several external names exists first. One lookup of a client queries A and AAAA; both answers
// must follow from the same decision.
type decision struct {
	done    chan struct{} // closed when the other fields are set
	until   time.Time
	failed  bool   // no upstream answered in time
	name    string // "": none of them exists
	records [2]familyRecords
}

// firstExisting returns the decision for these names: a recent one, or a new one from the upstreams.
func (s *Server) firstExisting(ctx context.Context, names []*wire.Query) *decision {
	d, own := s.autopath.decision(s.decisionKey(names), s.cfg.now())
	if own {
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

// decisionKey identifies the names and their upstreams: other upstreams may answer differently.
func (s *Server) decisionKey(names []*wire.Query) string {
	var b strings.Builder
	for _, n := range names {
		b.WriteString(strconv.FormatUint(uint64(s.forward.SetOf(n)), 36))
		b.Write(n.Name)
	}
	return b.String()
}

// decision returns the decision under a key, and whether the caller has to make it.
func (a *autopath) decision(key string, now time.Time) (*decision, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.decisions[key]; have != nil && now.Before(have.until) {
		return have, false
	}
	if len(a.decisions) >= maxDecisions {
		maps.DeleteFunc(a.decisions, func(_ string, d *decision) bool { return !now.Before(d.until) })
	}
	made := &decision{done: make(chan struct{}), until: now.Add(decisionTTL)}
	if len(a.decisions) < maxDecisions {
		a.decisions[key] = made
	}
	return made, true
}

// decide queries both families of each name, one name after the other.
func (s *Server) decide(ctx context.Context, d *decision, names []*wire.Query) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.autopathTimeout)
	defer cancel()
	for _, n := range names {
		exists, ok := s.queryBothFamilies(ctx, d, n)
		switch {
		case !ok:
			d.failed = true
			return
		case exists:
			d.name = wire.DecodeName(n.Name)
			return
		}
	}
}

// queryBothFamilies queries A and AAAA of a name at once. ok is false when an upstream does not answer usably.
func (s *Server) queryBothFamilies(ctx context.Context, d *decision, n *wire.Query) (exists, ok bool) {
	type part struct {
		m    *forward.Message
		rule forward.TTLRule
		q    *wire.Query
	}
	parts := [2]part{}
	var wg sync.WaitGroup
	for i, typ := range [2]uint16{wire.TypeA, wire.TypeAAAA} {
		wg.Go(func() {
			q := &wire.Query{}
			n := *n
			n.Type = typ
			if q.Parse(n.WithName(string(n.Name))) == wire.Simple {
				q.Client = n.Client
				m, rule, _ := s.forward.Resolve(ctx, q)
				parts[i] = part{m, rule, q}
			}
		})
	}
	wg.Wait()
	for i, p := range parts {
		if p.m == nil || p.m.Rcode != wire.RcodeOK && p.m.Rcode != wire.RcodeNXDomain {
			return false, false
		}
		in := new(dns.Msg)
		if in.Unpack(p.m.Answer(nil, p.q, p.rule, wire.TCPSize)) != nil || in.Truncated {
			return false, false
		}
		d.records[i] = familyRecords{s.shortLived(in.Answer), s.shortLived(in.Ns)}
		exists = exists || p.m.Rcode == wire.RcodeOK
	}
	return exists, true
}

// shortLived reduces TTLs to those of cluster names: the name of the question may get a record of its own at any time.
func (s *Server) shortLived(rr []dns.RR) []dns.RR {
	for _, r := range rr {
		r.Header().Ttl = min(r.Header().Ttl, s.zone.TTL)
		if soa, ok := r.(*dns.SOA); ok {
			soa.Minttl = min(soa.Minttl, s.zone.TTL)
		}
	}
	return rr
}
