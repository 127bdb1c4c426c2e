// Package dns answers names on one node: cluster names from memory, everything else from a cache and from upstream.
//
// It owns its UDP and TCP sockets and the goroutines under Run; it reads resolv.conf and watches it, and writes nothing.
// It never asks the network for a name of the cluster, and never caches a negative answer for one: the zone is an
// immutable index built from model.Snapshot and swapped whole.
//
// Names (all comparisons ignore case, the case of the question is kept in the answer):
//
//	<service>.<ns>.svc.<domain>                     A, AAAA of the cluster addresses, or of a headless Service's endpoints
//	<hostname>.<service>.<ns>.svc.<domain>          A, AAAA of one headless endpoint (no hostname: its address with dashes)
//	_<port>._<proto>.<service>.<ns>.svc.<domain>    SRV of each named port; of all ports at the Service's own name
//	<d>.<c>.<b>.<a>.in-addr.arpa, ...ip6.arpa       PTR of cluster addresses and headless endpoints
//	<a>-<b>-<c>-<d>.<ns>.pod.<domain>               A or AAAA by form, in any namespace; Config.Pods decides
//	<node>.node.<domain>, <node>.node.warren        A, AAAA of a node's own addresses, for labs: `search node.warren`
//	dns-version.<domain>                            TXT "1.1.0", the Kubernetes DNS specification this follows
//	<domain>, ns.dns.<domain>                       SOA and NS; the addresses this server listens on
//
// A name that exists without the type asked is NODATA, a name that does not is NXDOMAIN; a headless Service without
// ready endpoints does not exist; `svc`, `pod`, `node`, `<ns>.svc` and `_tcp.<service>...` exist and are empty.
//
// The way of a datagram: recvmmsg -> parse (query.go) -> who may ask (access.go) -> zone index (index.go) or cache
// (cache.go) -> prepared bytes (reply.go) -> sendmmsg. Whatever that path does not know leaves it as a verdict and is
// answered by a goroutine with the wire library (slow.go, forward.go).
package dns
