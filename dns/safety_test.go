package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns/wire"
)

func TestAccess_ClientNotAllowed_Refused(t *testing.T) {
	s := warm(t)
	a := responder{s: s, counters: s.stats.newCounters(), now: time.Now()}
	pkt := packed(t, "web.default.svc.cluster.local.", mdns.TypeA, true)
	for from, want := range map[string]byte{"127.0.0.1": wire.RcodeOK, "::1": wire.RcodeOK,
		"10.42.0.9": wire.RcodeRefused, "192.0.2.1": wire.RcodeRefused} {
		out, _ := a.answer(nil, pkt, netip.MustParseAddr(from), wire.UDPSize)
		if out[3]&15 != want {
			t.Errorf("from %s: rcode %d, want %d", from, out[3]&15, want)
		}
		if len(out) > len(pkt) && want == wire.RcodeRefused {
			t.Errorf("the refusal is longer than the question: %d > %d", len(out), len(pkt))
		}
	}
	c := Config{Listen: s.cfg.Listen, Allow: prefixes("10.42.0.0/16", "fd42::/48")}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]bool{"10.42.0.9": true, "fd42::9": true, "10.43.0.1": false, "fd43::1": false} {
		t.Run(from, func(t *testing.T) {
			if got := s.access.allowed(netip.MustParseAddr(from)); got != want {
				t.Errorf("%s allowed: %v", from, got)
			}
		})
	}
}

func TestAccess_RateLimit_CountsPerClientAndSecond(t *testing.T) {
	a := newAccess(nil, 10)
	one, two := netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("10.42.0.2")
	for second := range int64(3) {
		n := 0
		for range 100 {
			if a.withinLimit(one, second) {
				n++
			}
		}
		if n != 10 || !a.withinLimit(two, second) {
			t.Errorf("second %d: %d queries passed, want 10; another client must not be limited", second, n)
		}
	}
}

// Queries that are not simple get the answer of their RFC.
func TestServer_GeneralQueries_AnsweredByTheirRFC(t *testing.T) {
	up := newFake(t, answers("192.0.2.30"))
	_, at := start(t, Config{Upstreams: []string{up.addr.String()}, Node: "n1"})
	web := "web.default.svc.cluster.local"
	for what, c := range map[string]struct {
		name string
		typ  uint16
		edit func(m *mdns.Msg)
		want int
		ok   func(r *mdns.Msg) bool
	}{
		"ANY of a cluster name": {web, mdns.TypeANY, nil, mdns.RcodeSuccess,
			func(r *mdns.Msg) bool { return len(r.Answer) == 1 && r.Answer[0].Header().Rrtype == mdns.TypeHINFO }},
		"ANY of no name": {"nope.default.svc.cluster.local", mdns.TypeANY, nil, mdns.RcodeNameError, nil},
		"ANY of an external name": {"www.example.com", mdns.TypeANY, nil, mdns.RcodeSuccess,
			func(r *mdns.Msg) bool { return len(r.Answer) == 1 }},
		"AXFR":  {"cluster.local", mdns.TypeAXFR, nil, mdns.RcodeRefused, nil},
		"MAILB": {"cluster.local", mdns.TypeMAILB, nil, mdns.RcodeNotImplemented, nil},
		"CHAOS version": {"version.bind", mdns.TypeTXT,
			func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeSuccess,
			func(r *mdns.Msg) bool { return strings.Contains(r.Answer[0].String(), "warren") }},
		"CHAOS hostname": {"hostname.bind", mdns.TypeTXT,
			func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeSuccess,
			func(r *mdns.Msg) bool { return strings.Contains(r.Answer[0].String(), "n1") }},
		"CHAOS authors": {"authors.bind", mdns.TypeTXT,
			func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeRefused, nil},
		"class ANY":   {web, mdns.TypeA, func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassANY }, mdns.RcodeRefused, nil},
		"NOTIFY":      {web, mdns.TypeSOA, func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify }, mdns.RcodeNotImplemented, nil},
		"UPDATE":      {web, mdns.TypeSOA, func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }, mdns.RcodeNotImplemented, nil},
		"no question": {web, mdns.TypeA, func(m *mdns.Msg) { m.Question = nil }, mdns.RcodeFormatError, nil},
		"two questions": {web, mdns.TypeA, func(m *mdns.Msg) {
			m.Question = append(m.Question, m.Question[0])
		}, mdns.RcodeFormatError, nil},
		"EDNS version 1": {web, mdns.TypeA, func(m *mdns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().SetVersion(1)
		}, mdns.RcodeBadVers, nil},
		"EDNS with an option": {web, mdns.TypeA, func(m *mdns.Msg) {
			m.SetEdns0(1232, true)
			o := m.IsEdns0()
			o.Option = append(o.Option, &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0102030405060708"})
		}, mdns.RcodeSuccess, func(r *mdns.Msg) bool { return len(r.Answer) == 1 && r.IsEdns0().Do() }},
		"an additional record": {web, mdns.TypeA, func(m *mdns.Msg) {
			rr, _ := mdns.NewRR("a. 1 IN A 192.0.2.1")
			m.Extra = append(m.Extra, rr)
		}, mdns.RcodeSuccess, func(r *mdns.Msg) bool { return len(r.Answer) == 1 }},
	} {
		t.Run(what, func(t *testing.T) {
			edit := c.edit
			if edit == nil {
				edit = func(*mdns.Msg) {}
			}
			for _, network := range []string{"udp", "tcp"} {
				r := exchange(t, at, network, c.name, c.typ, edit)
				if r.Rcode != c.want || c.ok != nil && !c.ok(r) {
					t.Errorf("over %s: %v, want %s", network, r, mdns.RcodeToString[c.want])
				}
			}
		})
	}
}

// Responses, short datagrams and oversized ones get no answer. The next query is answered.
func TestServer_MalformedDatagrams_NotAnswered(t *testing.T) {
	_, at := start(t, Config{})
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := packed(t, "web.default.svc.cluster.local.", mdns.TypeA, false)
	answer[2] |= wire.FlagQR
	for _, malformed := range [][]byte{{}, {1}, answer, answer[:11], make([]byte, 9000)} {
		_, _ = c.Write(malformed)
	}
	q := packed(t, "web.default.svc.cluster.local.", mdns.TypeA, false)
	binary.BigEndian.PutUint16(q, 4711)
	_, _ = c.Write(q)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := make([]byte, 9000)
	n, err := c.Read(in)
	// 9000 zero bytes are malformed, or a query of opcode 0 without question, which gets a header as its answer.
	if err != nil || binary.BigEndian.Uint16(in) != 4711 && n != wire.HeaderLen {
		t.Fatalf("first answer: %x %v", in[:n], err)
	}
}

func TestServer_LargeAnswer_TruncatedOverUDP(t *testing.T) {
	s, at := start(t, Config{})
	snap := sample()
	var hosts []string
	for i := range 300 {
		hosts = append(hosts, netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)}).String())
	}
	for i := range snap.Slices {
		if snap.Slices[i].Name == "db-1" {
			for _, h := range hosts {
				e := snap.Slices[i].Endpoints[0]
				e.Addr, e.Hostname = netip.MustParseAddr(h), ""
				snap.Slices[i].Endpoints = append(snap.Slices[i].Endpoints, e)
			}
		}
	}
	s.Set(snap)
	for _, size := range []uint16{0, 512, 1232, 4096} {
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeSRV} {
			name := map[uint16]string{mdns.TypeA: "db.prod.svc.cluster.local", mdns.TypeSRV: "_pg._tcp.db.prod.svc.cluster.local"}[typ]
			edit := func(m *mdns.Msg) {
				if size > 0 {
					m.SetEdns0(size, false)
				}
			}
			m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), typ)
			edit(m)
			raw := exchangeRaw(t, at, m)
			most := int(min(max(size, 512), wire.UDPSize))
			if len(raw) > most || len(raw) < most/2 || raw[2]&wire.FlagTC == 0 {
				t.Errorf("size %d: %d bytes, TC %v", size, len(raw), raw[2]&wire.FlagTC != 0)
			}
			if r := exchange(t, at, "tcp", name, typ, edit); len(r.Answer) < 300 || r.Truncated {
				t.Errorf("over TCP: %d answers, TC %v", len(r.Answer), r.Truncated)
			}
		}
	}
}

func exchangeRaw(t testing.TB, at netip.AddrPort, m *mdns.Msg) []byte {
	t.Helper()
	b, _ := m.Pack()
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(b)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := make([]byte, 65536)
	n, err := c.Read(in)
	if err != nil {
		t.Fatal(err)
	}
	return in[:n]
}

func FuzzQuery(f *testing.F) {
	s := warm(f)
	for _, c := range hotQuestions {
		f.Add(packed(f, c.name, c.typ, true))
	}
	f.Add(packed(f, "away.ext.svc.cluster.local.", mdns.TypeA, false))
	f.Add(packed(f, "web.default.svc.cluster.local.", mdns.TypeANY, false))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	a := responder{s: s, counters: s.stats.newCounters(), now: time.Now()}
	from := netip.MustParseAddrPort("127.0.0.1:5")
	f.Fuzz(func(t *testing.T, pkt []byte) {
		if len(pkt) > inSize {
			return
		}
		for _, udp := range []bool{true, false} {
			limit := wire.TCPSize
			if udp {
				limit = wire.UDPSize
			}
			out, v := a.answer(make([]byte, 0, wire.UDPSize), pkt, from.Addr(), limit)
			if v == deferred {
				out = s.resolvePacket(t.Context(), pkt, from, limit, a.counters)
			}
			if len(out) == 0 {
				continue
			}
			if len(out) > limit || out[0] != pkt[0] || out[1] != pkt[1] || out[2]&wire.FlagQR == 0 {
				t.Fatalf("answer %x to %x", out, pkt)
			}
			if err := new(mdns.Msg).Unpack(out); err != nil {
				t.Fatalf("answer %x to %x: %v", out, pkt, err)
			}
		}
	})
}
