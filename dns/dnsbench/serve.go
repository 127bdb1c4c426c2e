package main

import (
	"context"
	"net/netip"
	"runtime"
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns"
)

func serveWarren(addr string, n int) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	s, err := dns.New(dns.Config{Listen: []netip.AddrPort{at}})
	if err != nil {
		return err
	}
	s.Set(snapshot(n))
	return s.Run(context.Background())
}

type key struct {
	name string
	typ  uint16
}

// serveMap is the server loop of github.com/miekg/dns over a map of prepared records.
func serveMap(addr string, n int) error {
	rr, exists := map[key][]mdns.RR{}, map[string]bool{}
	var soa mdns.RR
	put := func(line string) {
		r, err := mdns.NewRR(line)
		if err != nil {
			return
		}
		name := strings.ToLower(r.Header().Name)
		k := key{name, r.Header().Rrtype}
		rr[k] = append(rr[k], r)
		if r.Header().Rrtype == mdns.TypeSOA && soa == nil {
			soa = r
		}
		for ; name != ""; name = name[strings.IndexByte(name, '.')+1:] {
			exists[name] = true
		}
	}
	zone(n, put)
	reverse(n, put)
	h := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		m.Authoritative = true
		name := strings.ToLower(q.Question[0].Name)
		if m.Answer = rr[key{name, q.Question[0].Qtype}]; m.Answer == nil {
			m.Ns = []mdns.RR{soa}
			if !exists[name] {
				m.Rcode = mdns.RcodeNameError
			}
		}
		_ = w.WriteMsg(m)
	})
	failed := make(chan error)
	for range runtime.GOMAXPROCS(0) {
		s := &mdns.Server{Addr: addr, Net: "udp", ReusePort: true, Handler: h}
		go func() { failed <- s.ListenAndServe() }()
	}
	go func() { failed <- (&mdns.Server{Addr: addr, Net: "tcp", Handler: h}).ListenAndServe() }()
	return <-failed
}
