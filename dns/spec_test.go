package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// specification is every "must" of the Kubernetes DNS specification 1.1.0 and of the package comment: question, response
// code, answers without TTL in sorted order.
var specification = []struct {
	name, typ, rcode string
	answers          []string
}{
	// 2.2 schema version
	{"dns-version.cluster.local", "TXT", "NOERROR", []string{`dns-version.cluster.local. TXT "1.1.0"`}},
	{"dns-version.cluster.local", "A", "NOERROR", nil},
	// 2.3 ClusterIP
	{"web.default.svc.cluster.local", "A", "NOERROR", []string{"web.default.svc.cluster.local. A 10.43.0.5"}},
	{"web.default.svc.cluster.local", "AAAA", "NOERROR", []string{"web.default.svc.cluster.local. AAAA fd43::5"}},
	{"WEB.Default.SVC.cluster.LOCAL", "A", "NOERROR", []string{"WEB.Default.SVC.cluster.LOCAL. A 10.43.0.5"}},
	{"four.default.svc.cluster.local", "AAAA", "NOERROR", nil},
	{"web.default.svc.cluster.local", "TXT", "NOERROR", nil},
	{"3scale.default.svc.cluster.local", "A", "NOERROR", []string{"3scale.default.svc.cluster.local. A 10.43.0.7"}},
	{"_http._tcp.web.default.svc.cluster.local", "SRV", "NOERROR",
		[]string{"_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local."}},
	{"_dns._udp.web.default.svc.cluster.local", "SRV", "NOERROR",
		[]string{"_dns._udp.web.default.svc.cluster.local. SRV 0 100 53 web.default.svc.cluster.local."}},
	{"_dns._tcp.web.default.svc.cluster.local", "SRV", "NXDOMAIN", nil},
	{"web.default.svc.cluster.local", "SRV", "NOERROR",
		[]string{"web.default.svc.cluster.local. SRV 0 50 53 web.default.svc.cluster.local.",
			"web.default.svc.cluster.local. SRV 0 50 80 web.default.svc.cluster.local."}},
	{"four.default.svc.cluster.local", "SRV", "NOERROR",
		[]string{"four.default.svc.cluster.local. SRV 0 100 1 four.default.svc.cluster.local."}},
	{"db.prod.svc.cluster.local", "SRV", "NOERROR", []string{
		"db.prod.svc.cluster.local. SRV 0 25 5432 10-42-2-2.db.prod.svc.cluster.local.",
		"db.prod.svc.cluster.local. SRV 0 25 5432 db-0.db.prod.svc.cluster.local.",
		"db.prod.svc.cluster.local. SRV 0 25 5432 db-1.db.prod.svc.cluster.local.",
		"db.prod.svc.cluster.local. SRV 0 25 5432 out.db.prod.svc.cluster.local."}},
	{"_http._tcp.web.default.svc.cluster.local", "A", "NOERROR", nil},
	{"_tcp.web.default.svc.cluster.local", "SRV", "NOERROR", nil},
	{"_._tcp.four.default.svc.cluster.local", "SRV", "NXDOMAIN", nil}, // unnamed port
	{"_tcp.four.default.svc.cluster.local", "SRV", "NXDOMAIN", nil},
	{"5.0.43.10.in-addr.arpa", "PTR", "NOERROR", []string{"5.0.43.10.in-addr.arpa. PTR web.default.svc.cluster.local."}},
	{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa", "PTR", "NOERROR",
		[]string{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa. PTR web.default.svc.cluster.local."}},
	{"5.0.43.10.in-addr.arpa", "A", "NOERROR", nil},
	// 2.4 headless
	{"db.prod.svc.cluster.local", "A", "NOERROR", []string{"db.prod.svc.cluster.local. A 10.42.0.2",
		"db.prod.svc.cluster.local. A 10.42.1.2", "db.prod.svc.cluster.local. A 10.42.2.2", "db.prod.svc.cluster.local. A 203.0.113.9"}},
	{"db.prod.svc.cluster.local", "AAAA", "NOERROR", []string{"db.prod.svc.cluster.local. AAAA fd42::2"}},
	{"db-0.db.prod.svc.cluster.local", "A", "NOERROR", []string{"db-0.db.prod.svc.cluster.local. A 10.42.0.2"}},
	{"db-0.db.prod.svc.cluster.local", "AAAA", "NOERROR", []string{"db-0.db.prod.svc.cluster.local. AAAA fd42::2"}},
	{"db-1.db.prod.svc.cluster.local", "AAAA", "NOERROR", nil},
	{"10-42-2-2.db.prod.svc.cluster.local", "A", "NOERROR", []string{"10-42-2-2.db.prod.svc.cluster.local. A 10.42.2.2"}},
	{"db-3.db.prod.svc.cluster.local", "A", "NXDOMAIN", nil}, // not ready
	{"x.db-0.db.prod.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"_pg._tcp.db.prod.svc.cluster.local", "SRV", "NOERROR", []string{
		"_pg._tcp.db.prod.svc.cluster.local. SRV 0 25 5432 10-42-2-2.db.prod.svc.cluster.local.",
		"_pg._tcp.db.prod.svc.cluster.local. SRV 0 25 5432 db-0.db.prod.svc.cluster.local.",
		"_pg._tcp.db.prod.svc.cluster.local. SRV 0 25 5432 db-1.db.prod.svc.cluster.local.",
		"_pg._tcp.db.prod.svc.cluster.local. SRV 0 25 5432 out.db.prod.svc.cluster.local."}},
	{"2.0.42.10.in-addr.arpa", "PTR", "NOERROR", []string{"2.0.42.10.in-addr.arpa. PTR db-0.db.prod.svc.cluster.local."}},
	{"2.2.42.10.in-addr.arpa", "PTR", "NOERROR", []string{"2.2.42.10.in-addr.arpa. PTR 10-42-2-2.db.prod.svc.cluster.local."}},
	{"2.3.42.10.in-addr.arpa", "PTR", "NXDOMAIN", nil},
	{"none.prod.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"none.prod.svc.cluster.local", "AAAA", "NXDOMAIN", nil},
	{"x.none.prod.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"all.prod.svc.cluster.local", "A", "NOERROR", []string{"all.prod.svc.cluster.local. A 10.42.0.9"}},
	// 2.5 ExternalName
	{"away.ext.svc.cluster.local", "CNAME", "NOERROR", []string{"away.ext.svc.cluster.local. CNAME www.example.com."}},
	{"here.ext.svc.cluster.local", "A", "NOERROR",
		[]string{"here.ext.svc.cluster.local. CNAME web.default.svc.cluster.local.", "web.default.svc.cluster.local. A 10.43.0.5"}},
	{"here.ext.svc.cluster.local", "TXT", "NOERROR", []string{"here.ext.svc.cluster.local. CNAME web.default.svc.cluster.local."}},
	{"wrong.ext.svc.cluster.local", "A", "NXDOMAIN", []string{"wrong.ext.svc.cluster.local. CNAME nope.default.svc.cluster.local."}},
	{"ring1.ext.svc.cluster.local", "A", "SERVFAIL",
		[]string{"ring1.ext.svc.cluster.local. CNAME ring2.ext.svc.cluster.local.",
			"ring2.ext.svc.cluster.local. CNAME ring1.ext.svc.cluster.local."}},
	// 2.6 Pods
	{"10-42-0-7.default.pod.cluster.local", "A", "NOERROR", []string{"10-42-0-7.default.pod.cluster.local. A 10.42.0.7"}},
	{"10-42-0-7.default.pod.cluster.local", "AAAA", "NOERROR", nil},
	{"fd42--7.default.pod.cluster.local", "AAAA", "NOERROR", []string{"fd42--7.default.pod.cluster.local. AAAA fd42::7"}},
	{"10-42-0-256.default.pod.cluster.local", "A", "NXDOMAIN", nil},
	{"www.default.pod.cluster.local", "A", "NXDOMAIN", nil},
	{"a.10-42-0-7.default.pod.cluster.local", "A", "NXDOMAIN", nil},
	// names that exist and are empty, and names that do not
	{"svc.cluster.local", "A", "NOERROR", nil},
	{"default.svc.cluster.local", "A", "NOERROR", nil},
	{"jobs.svc.cluster.local", "A", "NOERROR", nil}, // a namespace with Pods alone
	{"nowhere.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"pod.cluster.local", "A", "NOERROR", nil},
	{"default.pod.cluster.local", "A", "NOERROR", nil},
	{"dns.cluster.local", "A", "NOERROR", nil},
	{"nope.default.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"www.example.com.default.svc.cluster.local", "A", "NXDOMAIN", nil},
	{"www.example.com.svc.cluster.local", "AAAA", "NXDOMAIN", nil},
	{"www.example.com.cluster.local", "A", "NXDOMAIN", nil},
	// the zone itself
	{"cluster.local", "A", "NOERROR", nil},
	{"cluster.local", "NS", "NOERROR", []string{"cluster.local. NS ns.dns.cluster.local."}},
	{"cluster.local", "SOA", "NOERROR", []string{"cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"}},
	// reverse names of the ranges end here
	{"42.10.in-addr.arpa", "SOA", "NOERROR",
		[]string{"42.10.in-addr.arpa. SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"}},
	{"7.42.10.in-addr.arpa", "PTR", "NOERROR", nil},
	{"9.9.42.10.in-addr.arpa", "PTR", "NXDOMAIN", nil},
	{"x.9.9.42.10.in-addr.arpa", "PTR", "NXDOMAIN", nil},
	{"999.42.10.in-addr.arpa", "PTR", "NXDOMAIN", nil},
	// nodes
	{"n1.node.cluster.local", "A", "NOERROR", []string{"n1.node.cluster.local. A 192.0.2.1"}},
	{"n1.node.warren", "AAAA", "NOERROR", []string{"n1.node.warren. AAAA 2001:db8::1"}},
	{"n2.node.warren", "AAAA", "NOERROR", nil},
	{"n9.node.warren", "A", "NXDOMAIN", nil},
	{"node.warren", "A", "NOERROR", nil},
	{"ip-10-0-0-1.ec2.internal.node.warren", "A", "NOERROR", []string{"ip-10-0-0-1.ec2.internal.node.warren. A 10.0.0.1"}},
	{"ec2.internal.node.warren", "A", "NOERROR", nil},
}

func TestServer_KubernetesDNSSpecification_EveryMust(t *testing.T) {
	_, at := start(t, Config{})
	for _, c := range specification {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(c.name+"/"+c.typ+"/"+network, func(t *testing.T) {
				r := exchange(t, at, network, c.name, mdns.StringToType[c.typ])
				if got := mdns.RcodeToString[r.Rcode]; got != c.rcode {
					t.Errorf("%s, expected %s", got, c.rcode)
				}
				if got := plainRecords(r.Answer); !slices.Equal(got, c.answers) {
					t.Errorf("got %q\nexpected %q", got, c.answers)
				}
				if !r.Authoritative {
					t.Error("AA is not set")
				}
				if len(c.answers) == 0 {
					checkSOA(t, c.name, r)
				}
			})
		}
	}
}

// checkSOA checks that a negative answer names a zone above the question and may not be cached longer than a positive one.
func checkSOA(t *testing.T, name string, r *mdns.Msg) {
	t.Helper()
	soa, ok := (*mdns.SOA)(nil), false
	if len(r.Ns) == 1 {
		soa, ok = r.Ns[0].(*mdns.SOA)
	}
	if !ok || !mdns.IsSubDomain(soa.Hdr.Name, mdns.Fqdn(name)) || soa.Minttl > 5 || soa.Hdr.Ttl > 5 {
		t.Errorf("%s: authority %v, want the zone's SOA with at most 5 seconds", name, r.Ns)
	}
}

// plainRecords formats records without TTL and class. They are sorted, except after a CNAME.
func plainRecords(rr []mdns.RR) []string {
	var out []string
	for _, r := range rr {
		f := strings.Fields(r.String())
		out = append(out, strings.Join(append([]string{f[0]}, f[3:]...), " "))
	}
	if !slices.ContainsFunc(rr, func(r mdns.RR) bool { return r.Header().Rrtype == mdns.TypeCNAME }) {
		slices.Sort(out)
	}
	return out
}

func TestServer_SRV_AdditionalAddresses(t *testing.T) {
	_, at := start(t, Config{})
	r := exchange(t, at, "tcp", "_pg._tcp.db.prod.svc.cluster.local", mdns.TypeSRV)
	want := []string{"10-42-2-2.db.prod.svc.cluster.local. A 10.42.2.2",
		"db-0.db.prod.svc.cluster.local. A 10.42.0.2", "db-0.db.prod.svc.cluster.local. AAAA fd42::2",
		"db-1.db.prod.svc.cluster.local. A 10.42.1.2", "out.db.prod.svc.cluster.local. A 203.0.113.9"}
	if got := plainRecords(r.Extra); !slices.Equal(got, want) {
		t.Errorf("additional records:\n got %q\nwant %q", got, want)
	}
}

func TestServer_NoSnapshot_Servfail(t *testing.T) {
	s, at := start(t, Config{})
	s.Set(nil)
	for _, n := range []string{"web.default.svc.cluster.local", "n1.node.warren", "5.0.43.10.in-addr.arpa", "nope.cluster.local"} {
		if r := exchange(t, at, "udp", n, mdns.TypeA); r.Rcode != mdns.RcodeServerFailure {
			t.Errorf("%s before the first snapshot: %s, want SERVFAIL", n, mdns.RcodeToString[r.Rcode])
		}
	}
}

func TestServer_PodModes_AnswerByMode(t *testing.T) {
	for _, c := range []struct {
		mode PodMode
		name string
		want int
		data bool
	}{
		{PodsVerified, "10-42-0-44.jobs.pod.cluster.local", mdns.RcodeSuccess, true},
		{PodsVerified, "10-42-0-44.default.pod.cluster.local", mdns.RcodeNameError, false},
		{PodsVerified, "10-42-0-45.jobs.pod.cluster.local", mdns.RcodeNameError, false},
		{PodsOff, "10-42-0-44.jobs.pod.cluster.local", mdns.RcodeNameError, false},
		{PodsOff, "jobs.pod.cluster.local", mdns.RcodeSuccess, false},
	} {
		t.Run(fmt.Sprintf("mode %d, %s", c.mode, c.name), func(t *testing.T) {
			_, at := start(t, Config{Pods: c.mode})
			if r := exchange(t, at, "udp", c.name, mdns.TypeA); r.Rcode != c.want || c.data != (len(r.Answer) == 1) {
				t.Errorf("%v, expected %s", r, mdns.RcodeToString[c.want])
			}
		})
	}
}

// A headless name that did not exist is answered with the first query after Set, although its NXDOMAIN was queried before.
func TestServer_EndpointBecomesReady_AnsweredAtOnce(t *testing.T) {
	s, at := start(t, Config{})
	for range 3 {
		if r := exchange(t, at, "udp", "x.none.prod.svc.cluster.local", mdns.TypeA); r.Rcode != mdns.RcodeNameError {
			t.Fatalf("without ready endpoints: %v", r)
		}
		snap := sample()
		snap.Slices[3].Endpoints[0].Ready = true
		s.Set(snap)
		if r := exchange(t, at, "udp", "x.none.prod.svc.cluster.local", mdns.TypeA); len(r.Answer) != 1 {
			t.Fatalf("with one: %v", r)
		}
		s.Set(sample())
	}
}
