package route

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/ingress/engine"
)

// session is the cookie that keeps the requests of a client at one endpoint.
type session struct {
	cookie   http.Cookie // without value
	byValue  map[string]*Endpoint
	byTarget map[netip.AddrPort]string
}

// newSession makes the values of the cookie: each stands for an endpoint, is the same at all proxies, and does not reveal the address.
func newSession(e *Entry) *session {
	s := &session{cookie: e.options.cookie, byValue: map[string]*Endpoint{}, byTarget: map[netip.AddrPort]string{}}
	for _, x := range e.Backend.Endpoints {
		sum := sha256.Sum256([]byte(e.Ingress.UID + " " + e.Backend.Service.String() + " " + x.Addr.String()))
		value := hex.EncodeToString(sum[:16])
		s.byValue[value], s.byTarget[x.Addr] = x, value
	}
	return s
}

// bind makes a decision use the endpoint of the request's cookie, or a new endpoint and a new cookie.
func (s *session) bind(b *Backend, r *engine.Request, d *engine.Decision) {
	e := s.byValue[cookie(r.Header, s.cookie.Name)]
	if e == nil {
		if e = b.choose(nil); e == nil {
			return
		}
		c := s.cookie
		c.Value = s.byTarget[e.Addr]
		w := engine.Rewrite{}
		if d.Rewrite != nil {
			w = *d.Rewrite
		}
		w.Response.Add = append(slices.Clone(w.Response.Add), [2]string{"Set-Cookie", c.String()})
		d.Rewrite = &w
	}
	d.Upstream.Pick = b.first(e)
}

// first selects e, and another endpoint only after e was tried.
func (b *Backend) first(e *Endpoint) func([]netip.AddrPort) (netip.AddrPort, bool) {
	return func(tried []netip.AddrPort) (netip.AddrPort, bool) {
		if len(tried) > 0 {
			return b.pick(tried)
		}
		e.active.Add(1)
		return e.Addr, true
	}
}

// hashKey makes the text that requests are distributed by.
type hashKey []func(*engine.Request) string

// parseHashKey reads variables of nginx and text, such as $host$request_uri.
func parseHashKey(v string) (hashKey, error) {
	var out hashKey
	for v != "" {
		i := strings.IndexByte(v, '$')
		if i != 0 {
			text := v
			if i > 0 {
				text = v[:i]
			}
			out, v = append(out, func(*engine.Request) string { return text }), v[len(text):]
			continue
		}
		end := 1
		for end < len(v) && (v[end] == '_' || v[end] == '{' || v[end] == '}' || isAlphanumeric(v[end])) {
			end++
		}
		f, err := hashVariable(strings.Trim(v[1:end], "{}"))
		if err != nil {
			return nil, err
		}
		out, v = append(out, f), v[end:]
	}
	if len(out) == 0 {
		return nil, errors.New("expected variables such as $remote_addr")
	}
	return out, nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func hashVariable(name string) (func(*engine.Request) string, error) {
	switch name {
	case "request_uri":
		return func(r *engine.Request) string { return r.Path + "?" + r.Query }, nil
	case "uri":
		return func(r *engine.Request) string { return canonical(r.Path) }, nil
	case "host", "http_host":
		return func(r *engine.Request) string { return r.Host }, nil
	case "remote_addr", "binary_remote_addr":
		return func(r *engine.Request) string { return r.Client.Addr().String() }, nil
	case "request_method":
		return func(r *engine.Request) string { return r.Method }, nil
	case "scheme":
		return func(r *engine.Request) string { return r.Scheme }, nil
	}
	if field, ok := strings.CutPrefix(name, "http_"); ok && field != "" {
		field = strings.ReplaceAll(field, "_", "-")
		return func(r *engine.Request) string { return r.Header.Get(field) }, nil
	}
	if c, ok := strings.CutPrefix(name, "cookie_"); ok && c != "" {
		return func(r *engine.Request) string { return cookie(r.Header, c) }, nil
	}
	if key, ok := strings.CutPrefix(name, "arg_"); ok && key != "" {
		return func(r *engine.Request) string {
			q, _ := url.ParseQuery(r.Query) // what is valid counts
			return q.Get(key)
		}, nil
	}
	return nil, fmt.Errorf("the variable $%s is not supported", name)
}

// bind makes a decision use the endpoint with the highest hash of key and address ("rendezvous hashing"): of n endpoints one that goes
// away moves its own requests only.
func (k hashKey) bind(b *Backend, r *engine.Request, d *engine.Decision) {
	var key strings.Builder
	for _, f := range k {
		key.WriteString(f(r))
		key.WriteByte(0)
	}
	var best *Endpoint
	var most uint64
	for _, e := range b.Endpoints {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key.String()))    // never fails
		_, _ = h.Write([]byte(e.Addr.String())) // never fails
		if sum := mix(h.Sum64()); best == nil || sum > most {
			best, most = e, sum
		}
	}
	if best != nil {
		d.Upstream.Pick = b.first(best)
	}
}

// mix spreads similar hashes over the whole range (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// parseSize reads bytes with k, m or g, as nginx does.
func parseSize(v string) (int64, error) {
	number, factor := strings.ToLower(v), int64(1)
	if n := len(number); n > 0 {
		if i := strings.IndexByte("kmg", number[n-1]); i >= 0 {
			number, factor = number[:n-1], 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<40/factor {
		return 0, errors.New("expected bytes such as 8m, at most 1 TiB; 0 for no limit")
	}
	return n * factor, nil
}

// parseAliases reads host names, separated by commas.
func parseAliases(v string) (out []string, err error) {
	for s := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ' ' }) {
		s = strings.ToLower(s)
		name := strings.TrimPrefix(s, "*.")
		if name == "" || strings.ContainsAny(name, "*~^$\\()/:") {
			return nil, fmt.Errorf("%q is neither a host name nor *.example.com; regular expressions are not supported", s)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errors.New("expected host names")
	}
	return out, nil
}
