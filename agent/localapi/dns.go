package localapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
)

// questionTypes are the types that `warren dns query` accepts (RFC 1035, 3596, 2782).
var questionTypes = map[string]uint16{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}

func (s *Server) dnsQuery(w http.ResponseWriter, r *http.Request) {
	d, q := s.DNS.Current(), r.URL.Query()
	t, known := questionTypes[q.Get("type")]
	switch {
	case d == nil:
		refuse(w, http.StatusServiceUnavailable, errors.New("the DNS server of this node is not running (yet, or dns.addresses is empty)"))
		return
	case !known:
		refuse(w, http.StatusBadRequest, fmt.Errorf("type %q is none of A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT", q.Get("type")))
		return
	}
	client := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if ns := q.Get("namespace"); ns != "" {
		reply(w, d.Search(r.Context(), q.Get("name"), t, client, s.DNS.PodConfig(ns).Searches, 5))
		return
	}
	reply(w, d.Query(r.Context(), q.Get("name"), t, client))
}

// dnsLog switches the log line per query.
func (s *Server) dnsLog(w http.ResponseWriter, r *http.Request) {
	on, err := strconv.ParseBool(r.URL.Query().Get("on"))
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("on: %q is neither true nor false", r.URL.Query().Get("on")))
		return
	}
	s.DNS.LogQueries(on)
	reply(w, struct{}{})
}
