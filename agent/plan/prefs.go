package plan

// Preferences of the policy routing rules and numbers of the routing tables. Everything that warren installs has its
// number here. With one Service whose only local backend listens on TCP port 8080, `ip rule` lists:
//
//	30:     from all iif warren0 lookup local
//	31:     from all iif warren0 goto 115
//	32:     from all iif eth0 goto 35
//	33:     from all goto 38
//	35:     from 10.42.0.0/16 blackhole
//	35:     from 10.43.0.0/16 blackhole
//	37:     from all to 10.42.0.0/16 blackhole
//	37:     from all to 10.43.0.0/16 blackhole
//	38:     from all iif warren0 goto 115
//	59:     from all iif lo ipproto udp dport 30000-32767 lookup 105
//	60:     from all ipproto tcp dport 30000-32767 lookup 102
//	60:     from all ipproto tcp dport 13000-29999 lookup 104
//	60:     from all ipproto udp dport 30000-32767 lookup 102
//	60:     from all ipproto udp dport 13000-29999 lookup 104
//	70:     from all lookup local
//	73:     from 10.42.0.0/16 ipproto tcp sport 8080 lookup 100
//	111:    from all to 10.42.0.0/24 ipproto icmp lookup 100
//	115:    from all lookup 101
//	116:    from 10.42.0.0/16 lookup 103
//	119:    from all iif lo ipproto icmp dport 771-772 lookup 100
//	32765:  from all lookup local
//	32766:  from all lookup main
//	32767:  from all lookup default
//
// A backend for UDP or SCTP adds 71 and 72, a backend that is the node itself 112 to 114, more than linearReplies ports of
// backends 74 and the groups from 75 on, IPv6 118, and a kube-proxy replaces the rules with table 100 by 117.
//
// The numbers are far below those of the kernel's own rules and of other routing software (32766 and above, or 5200 and
// above), so that redirection is decided first. They begin at 30, so that an operator can add rules before them. The
// gaps between them are for rules of later versions.
const (
	// The load balancer has written a packet to the TUN: it is delivered if it is for the node, else it continues
	// at the Pods' table. No rule may redirect it to the TUN again.
	prefFromTUNLocal = 30 // iif warren0 lookup local
	prefFromTUNSkip  = 31 // iif warren0 goto prefPods

	// Packets of links that are neither the TUN nor a Pod's veth must not have addresses of the Pod and Service ranges (lan.go).
	// The numbers follow those of the TUN, whose packets skip them, and precede every other rule.
	prefLAN            = 32 // iif <link> goto prefOtherCNI, or prefLANSource without such rules
	prefNotLAN         = 33 // goto prefLANEnd: packets of Pods and of the node itself
	prefOtherCNI       = 34 // from <Pod CIDR or node of another CNI plugin> iif <link> goto prefLANEnd
	prefLANSource      = 35 // from <Pod or Service range> blackhole
	prefLANOpen        = 36 // from <permitted clients> to <Pod or Service range> goto prefLANEnd
	prefLANDestination = 37 // to <Pod or Service range> blackhole
	// The kernel skips a goto without a target. This rule is always there, and matches nothing: prefFromTUNSkip does before.
	prefLANEnd = 38 // iif warren0 goto prefPods

	// External IPs belong to the host's normal routing, except for the ports that Services have there. Only packets to a permitted
	// range with such a port pass the rules of the ports.
	prefExternalRanges = 40 // to <permitted range> goto prefExternalPorts
	prefNotExternal    = 41 // goto prefOwnDatagrams
	prefExternalPorts  = 42 // to <external IP> ipproto P dport <ports> lookup tableTUN

	// Node ports and masquerade ports are the load balancer's at the node's own addresses. These rules are before table
	// local, which would deliver the packets to sockets of the node.
	prefOwnDatagrams = 59 // iif lo ipproto udp dport <node ports> lookup tableOwnDatagrams: with a smaller MTU (mtu.go)
	prefPorts        = 60 // ipproto tcp|udp dport <node ports, masquerade ports, host ports> lookup tableNodePorts or tableMasquerade
	// Only with a host port 65535, which no rule can name: 62 redirects its protocol, and 61 exempts all other ports.
	prefOtherPorts = 61 // ipproto tcp|sctp dport 1-65534 goto prefLocal
	prefLastPort   = 62 // ipproto tcp|sctp lookup tableNodePorts

	// The rule of table local is moved from 0 to here, behind the rules for ports. A second one stays at 32765.
	prefLocal = 70 // lookup local

	// Replies of local backends, which the kernel would forward from veth to veth, go to the load balancer instead. No rule
	// that names ports matches a fragment. So 72 redirects all packets of UDP and SCTP, and 71 exempts whole datagrams.
	// No rule can name port 65535 either: with a backend at that port the two rules do the same for its protocol, TCP included.
	prefWholeDatagrams = 71 // from <Pod range> ipproto P sport 1-65534 goto prefReplies, or prefICMP without reply rules
	prefFragments      = 72 // from <Pod range> to <own block, non-masquerade destination> ipproto P lookup tableTUN
	prefReplies        = 73 // from <Pod range> ipproto P sport <port of a local backend> lookup tableTUN, or goto a group
	prefNoGroup        = 74 // goto prefICMP: a port in no group skips all groups
	prefGroups         = 75 // group i has its ports at 75+2i and the exit to prefICMP at 76+2i, up to 110

	// ICMP errors to local Pods are about translated packets or about Pods' own ones: the load balancer distinguishes them.
	prefICMP = 111 // to <own block> ipproto icmp lookup tableTUN

	// Replies of backends that are the node itself (host network).
	prefFromHost    = 112 // iif lo to <Pod range> goto prefHostReplies
	prefNoHostReply = 113 // goto prefPods: all other packets skip prefHostReplies
	prefHostReplies = 114 // iif lo to <Pod range> ipproto P sport <ports of such backends> lookup tableTUN

	// Everything else: to Pods and Services, then what leaves the cluster.
	prefPods   = 115 // lookup tablePods
	prefEgress = 116 // from <Pod range> lookup tableEgress
	// Only alongside a kube-proxy: replies of its backends skip 116 and find their Pods here.
	prefPodsAgain = 117 // lookup tablePods

	// ICMP errors that the node itself makes for external clients. These rules are behind those to Pods: errors to Pods pass
	// the TUN anyway.
	prefLinkLocalErrors = 118 // from fe80::/10 iif lo ipproto ipv6-icmp dport <errors> lookup main: not forwarded off the link
	prefHostErrors      = 119 // iif lo ipproto icmp dport <type and code of the errors> lookup tableTUN
)

// The routing tables. Each route over the TUN has a blackhole with metric blackholeMetric behind it.
const (
	tableTUN          = 100 // default dev warren0: everything to the load balancer
	tablePods         = 101 // local Pods over their veths; the Pod and Service ranges over warren0
	tableNodePorts    = 102 // node addresses that serve node ports, 127.0.0.1 among them, dev warren0
	tableEgress       = 103 // default dev warren0 for what leaves the cluster; other nodes' own addresses
	tableMasquerade   = 104 // node addresses that receive replies to masqueraded flows, dev warren0
	tableOwnDatagrams = 105 // like tableNodePorts, with the MTU of the narrowest path to a backend

	tableMain  = 254 // the kernel's
	tableLocal = 255 // the kernel's
)

// TablePods is the routing table of local Pods, where CNI ADD puts a Pod's routes before the next plan has them.
const TablePods = tablePods

// blackholeMetric is the metric of the blackholes behind the routes over the TUN. If the device is deleted, packets are
// dropped and do not follow the default route in clear.
const blackholeMetric = 4096
