// Package route compiles Ingresses, IngressClasses, Services, EndpointSlices and TLS Secrets into one immutable table, and answers
// from it which backend serves a request and which certificate a TLS handshake gets.
//
// A Compiler keeps what it compiled last, so that a change of one object costs little. A Table is immutable and may be used by any
// number of goroutines. The only state that changes in it are the counters of requests at each endpoint, which the next Table
// continues to use. The package owns no goroutine, reads no API server and no clock while it compiles, and opens no connection.
//
// Precedence: an exact host before a wildcard host before rules without a host; in a host an Exact path before Prefix, then the
// longest path; of equal paths the oldest Ingress, then namespace and name. A request that no path of the selected host matches
// gets the default backend of an Ingress of that host, then that of an Ingress without rules, then status 404.
package route
