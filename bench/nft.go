package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/lab"
)

// nftAddr is translated by the kernel; it belongs to the range for benchmarks (RFC 2544), which warren does not route.
var nftAddr = netip.MustParseAddr("198.18.0.10")

// natRules are those that kube-proxy's nftables mode writes for a Service with one endpoint: a verdict map from address,
// protocol and port to the Service's chain, which chooses among the endpoints' chains; masquerade of hairpins by a mark.
const natRules = `
table ip warren-bench {
  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
  }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
  }
  chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
  chain nat-output { type nat hook output priority -100; policy accept; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; jump masquerading; }
%s}
%s`

// natPort are the chains of one port, natElement is the map element that jumps to them.
const natPort = `  chain endpoint-%[1]s-%[2]s {
    ip saddr %[3]s meta mark set meta mark | 0x4000
    meta l4proto %[1]s dnat to %[3]s:%[2]s
  }
  chain service-%[1]s-%[2]s {
    numgen random mod 1 vmap { 0 : goto endpoint-%[1]s-%[2]s }
  }
`

const natElement = "add element ip warren-bench service-ips { %[3]s . %[1]s . %[2]s : goto service-%[1]s-%[2]s }\n"

// natOn adds rules to the client's node that translate the target's address to the backend's.
func natOn(l *lab.Lab, w target, backend netip.Addr) error {
	var ports, elements strings.Builder
	for _, p := range [][2]string{{"tcp", w.iperf}, {"udp", w.pong}, {"tcp", w.conn}} {
		fmt.Fprintf(&ports, natPort, p[0], p[1], backend)
		fmt.Fprintf(&elements, natElement, p[0], p[1], w.addr)
	}
	return nft(l, fmt.Sprintf(natRules, ports.String(), elements.String()))
}

// natOff takes the rules away, and with them connection tracking, whose cost the other targets would bear too.
func natOff(l *lab.Lab) error { return nft(l, "delete table ip warren-bench\n") }

func nft(l *lab.Lab, script string) error {
	var out bytes.Buffer
	if err := l.Exec("n1", lab.Cmd{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(script), Stdout: &out,
		Stderr: &out}); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out.String())
	}
	return nil
}
