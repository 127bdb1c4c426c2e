// Package forward answers names outside the cluster zone: from a cache, or from upstream DNS servers.
//
// A Forwarder owns the cache, the sets of upstreams with their health, the queries that wait for an upstream, and the
// idle TLS connections. It reads and watches resolv.conf and writes no file. It never sees the name of a cluster object:
// package dns resolves those names first. Its only goroutines are those of Run and those that Config.Spawn starts; the
// caller joins both.
//
// One query, from a question to the answer:
//
//	upstream.go    routes: which set of upstreams serves the name (stub domains, then the default set)
//	cache.go       answer from the cache, RFC 2308 negative answers and RFC 8767 stale answers included
//	inflight.go    equal questions share one query; each client has a share of the queries
//	hedge.go       order of the upstreams, hedged queries, retries
//	health.go      an upstream is down after two failures in a row, for 2 s, doubled up to 60 s
//	exchange.go    one query over UDP, TCP or TLS, with random ID, source port and 0x20 case
//	sanitize.go    removes records that do not belong to the question (RFC 5452)
//	message.go     the answer in the form that the cache stores and clients receive
//	loopdetect.go  probes that find upstreams which forward back to this server
//	resolvconf.go  the upstreams of resolv.conf, while none are configured
package forward
