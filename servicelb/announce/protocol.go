package announce

// EtherTypes (IEEE 802).
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	etherLen    = 14 // Ethernet header
	etherMinLen = 60 // shortest frame, without its check sequence
)

// ARP (RFC 826): hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const (
	arpLen          = 28
	arpHardware     = 1
	arpHardwareLen  = 6
	arpProtocolLen  = 4
	arpRequest      = 1
	arpReply        = 2
	arpOpOffset     = 6
	arpSenderOffset = 8
	arpTargetOffset = 18
)

// IPv6 and neighbor discovery (RFC 8200; RFC 4861 sections 4.3, 4.4 and 4.6).
const (
	ipv6Len         = 40
	protoICMP6      = 58
	ndLen           = 24
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndHopLimit      = 255 // a lower value was forwarded by a router
	ndOptionUnit    = 8   // bytes per unit of an option's length

	optSourceLinkAddress = 1
	optTargetLinkAddress = 2

	flagSolicited = 0x40
	flagOverride  = 0x20
)
