// Package engine is the HTTP side of the Ingress: it reads requests, requests a Decision from a Router for each of them, and
// forwards them to the endpoint that the Decision selects.
//
// The types in contract.go are what an engine and a Router agree on. The package never reads an API object.
package engine

import (
	"crypto/tls"
	"net/netip"
	"time"
)

// Request is the head of a client's request. Its strings are valid until Route returns.
type Request struct {
	Method string
	Scheme string // http or https, as the client sees it
	Host   string // lower case, without port and without a final dot
	Path   string // as sent, validated, without query
	Query  string // as sent, without the question mark
	Header HeaderView
	Client netip.AddrPort // the client, behind trusted proxies
	TLS    bool           // the connection itself is TLS
	// ServerName is the name of the TLS handshake (SNI), lower case, "" without one.
	ServerName string
	Listener   int // the number that was passed to Serve
}

// HeaderView reads the header fields of a request. Names are compared without case.
type HeaderView interface {
	// Get returns the first value of a field, "" if there is none.
	Get(name string) string
	// Values returns all values of a field, in the order of the request.
	Values(name string) []string
}

// Decision is what becomes of a request: either Upstream.Pick is set or Status.
type Decision struct {
	Upstream Upstream
	Status   int    // of the response that the engine itself sends
	Body     string // of that response, plain text
	// Headers are added to the response of Status, such as Location. Each element is a name and a value.
	Headers  [][2]string
	Rewrite  *Rewrite // nil: the request is forwarded as it was received
	Timeouts Timeouts
	Retry    Retry
	// MaxBody is the largest body of the request in bytes, 0 for no limit. A larger one gets status 413.
	MaxBody int64
	// Rule names the rule that matched, for the access log and metrics.
	Rule *Rule
}

// Rule names what matched. Its values are bounded by the number of objects, never by requests.
type Rule struct {
	Namespace, Object string // of the Ingress or route
	Host, Path        string // of the rule
	Service           string // of the backend, "" without one
}

// Upstream selects endpoints of a backend. Its functions are called concurrently.
type Upstream struct {
	// Pick returns an endpoint that is none of tried. It is false if there is none.
	Pick func(tried []netip.AddrPort) (netip.AddrPort, bool)
	// Done is called exactly once for each endpoint that Pick returned, when the response has ended or the attempt has failed.
	Done func(addr netip.AddrPort, result Result)
	TLS  *tls.Config // nil: clear text
	H2C  bool        // HTTP/2 without TLS; with TLS, ALPN decides
}

// Result is the outcome of an attempt at one endpoint.
type Result uint8

// The outcomes.
const (
	Answered      Result = iota // the endpoint sent the head of a response
	ConnectFailed               // no connection, so that no byte of the request was sent
	Broken                      // the connection failed before the head of a response
	Canceled                    // the client closed its connection first
)

// Rewrite changes a request before it is forwarded, and its response.
type Rewrite struct {
	Host     string // "": as received
	Path     string // "": as received; without query, percent-encoded as it is sent
	Request  HeaderChanges
	Response HeaderChanges
}

// HeaderChanges are applied in the order Remove, Set, Add.
type HeaderChanges struct {
	Remove []string
	Set    [][2]string
	Add    [][2]string
}

// Timeouts of one request. Zero is the engine's default.
type Timeouts struct {
	Connect time.Duration // to open a connection to an endpoint
	Read    time.Duration // between two reads from the endpoint
	Write   time.Duration // between two writes to the endpoint
	Request time.Duration // of the whole request
}

// Retry limits further attempts at other endpoints. An attempt is repeated only if no byte of the request's body was consumed
// and either no byte was sent or the method is idempotent (RFC 9110, section 9.2.2).
type Retry struct {
	Attempts int // in total; 0 is the engine's default
}

// Router decides about requests. Its methods are called concurrently, without locks, and must not block.
type Router interface {
	Route(r *Request) Decision
	// Certificate returns the certificate for a TLS handshake.
	Certificate(listener int, hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Event is one request that has ended. It is passed to the observer of a server, which must not keep it.
type Event struct {
	Request  *Request
	Rule     *Rule // nil: nothing matched
	Status   int   // of the response; 499: the client closed its connection before the head of a response
	Received int64 // bytes of the request's body
	Sent     int64 // bytes of the response's body
	Duration time.Duration
	Endpoint netip.AddrPort // the last one that was tried; invalid without one
	Attempts int            // at endpoints
}

// HopsField counts how often a request passed an ingress. An engine refuses a request that has MaxHops with status 508 (RFC 5842), and
// otherwise adds one, so that an endpoint that is the ingress itself makes no loop.
const (
	HopsField = "X-Warren-Hops"
	MaxHops   = 4
)
