// Package dns is the DNS server of one node. It answers cluster names from memory, and all other names from a cache or
// from upstream DNS servers.
//
// # What it owns
//
// A Server owns its UDP and TCP sockets and the goroutines under Run. It reads and watches resolv.conf and writes no file.
// It never sends the name of a cluster object to an upstream, and never caches an answer to one: the zone is an immutable
// index, built from model.Snapshot and swapped as a whole.
//
// # Names
//
// Comparisons ignore case. The answer repeats the case of the question.
//
//	<service>.<ns>.svc.<domain>                     A, AAAA of the ClusterIPs, or of a headless Service's endpoints
//	<hostname>.<service>.<ns>.svc.<domain>          A, AAAA of one headless endpoint (no hostname: its address with dashes)
//	_<port>._<proto>.<service>.<ns>.svc.<domain>    SRV of each named port; of all ports at the Service's own name
//	<d>.<c>.<b>.<a>.in-addr.arpa, ...ip6.arpa       PTR of ClusterIPs and headless endpoints
//	<a>-<b>-<c>-<d>.<ns>.pod.<domain>               A or AAAA, according to Config.Pods
//	<node>.node.<domain>, <node>.node.warren        A, AAAA of a node's own addresses, for labs: `search node.warren`
//	dns-version.<domain>                            TXT "1.1.0", the version of the Kubernetes DNS specification
//	<domain>, ns.dns.<domain>                       SOA and NS; the addresses of this server
//
// A name that exists without the type of the question is NODATA. A name that does not exist is NXDOMAIN. A headless Service
// without ready endpoints does not exist. `svc`, `pod`, `node`, `<ns>.svc` and `_tcp.<service>...` exist and are empty.
//
// # Settings
//
// The agent sets Config from dns.addresses, dns.upstreams, dns.stubDomains, dns.autopath, dns.allow, dns.rateLimit,
// dns.policy, dns.pods, dns.ttl, dns.cacheBytes, dns.serveStale and dns.logQueries. The zero value of each field of Config is
// the default. LogQueries, SetAllow, SetSearches and SetUpstreams change a running server; every other setting needs a new one.
//
// # Metrics
//
// warren_dns_queries_total, _answer_seconds and _unanswered_total count what clients receive; _external_total,
// _cache_entries and _cache_bytes the names outside the cluster zone; _upstream_up, _upstream_queries_total and
// _upstream_rtt_seconds the upstreams; _autopath_total completed search lists; _revision and _build_seconds the zone index.
//
// # Limits
//
//   - Clients: loopback and Config.Allow. Others get REFUSED, with the header only.
//   - A query over UDP has at most 1536 bytes, an answer 1232; longer answers are truncated.
//   - TCP: 512 connections per listener, 64 per client, 10 s idle.
//   - 1000 queries wait for upstreams at once, and 4000 clients for their answers; beyond that SERVFAIL. A query to the
//     upstreams ends after 4.5 s; a stale answer is served after 1.8 s (RFC 8767).
//   - No DNSSEC validation and no zone transfer. ANY is answered with one HINFO record (RFC 8482).
//
// # Path of a datagram
//
// recvmmsg (batch.go) -> parse (wire.Query) -> allowed, within the rate limit (clientlimit.go) -> zone index (zone.Index) or
// cache (forward.Forwarder) -> prepared bytes -> sendmmsg. hotpath.go has these steps; they allocate nothing. Any other query
// is deferred to a goroutine (resolve.go), which uses the DNS library and may wait for an upstream:
//
//	general.go    queries that are not simple: other classes and opcodes, ANY, EDNS options
//	cname.go      Services of type ExternalName
//	autopath.go   completion of a Pod's search list
//	forward/      names outside the cluster zone
//
// The sub-packages have no reference to this one: wire is the codec, zone the cluster names, forward the cache and the
// upstreams.
package dns
