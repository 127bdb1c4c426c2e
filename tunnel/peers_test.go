package tunnel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/uapi"
)

func key(n byte) model.Key { return model.Key{n} }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, c := range s {
		out = append(out, netip.MustParsePrefix(c))
	}
	return out
}

func addrPorts(s ...string) (out []netip.AddrPort) {
	for _, c := range s {
		out = append(out, netip.MustParseAddrPort(c))
	}
	return out
}

// spell formats a plan as UAPI text, keys by their first byte.
func spell(cs []change) string {
	var add, remove strings.Builder
	for _, c := range cs {
		add.WriteString(c.add)
		remove.WriteString(c.remove)
	}
	s := add.String() + remove.String()
	for n := byte(1); n < 10; n++ {
		s = strings.ReplaceAll(s, strings.TrimSpace(keyLine(key(n))), "peer "+string('0'+n))
	}
	return s
}

func TestPlan_EachDifference_IsConfigured(t *testing.T) {
	ep, ep2, roamed := "192.0.2.1:51820", "192.0.2.2:51820", "198.51.100.9:4000"
	settled := Peer{Name: "one", PublicKey: key(1), Endpoints: addrPorts(ep), AllowedIPs: prefixes("10.42.1.0/24")}
	have := func(endpoint string, ips ...string) map[model.Key]uapi.Peer {
		return map[model.Key]uapi.Peer{key(1): {PublicKey: key(1), Endpoint: netip.MustParseAddrPort(endpoint),
			AllowedIPs: prefixes(ips...)}}
	}
	with := func(change func(*Peer)) Peer { p := settled; change(&p); return p }
	for name, c := range map[string]struct {
		have   map[model.Key]uapi.Peer
		want   []Peer
		before []netip.AddrPort
		text   string
	}{
		"new":                    {nil, []Peer{settled}, nil, "peer 1\nendpoint=192.0.2.1:51820\nallowed_ip=10.42.1.0/24\n"},
		"new, without addresses": {nil, []Peer{{PublicKey: key(1)}}, nil, "peer 1\n"},
		"unchanged":              {have(ep, "10.42.1.0/24"), []Peer{settled}, addrPorts(ep), ""},
		"roamed":                 {have(roamed, "10.42.1.0/24"), []Peer{settled}, addrPorts(ep), ""},
		"roamed, desired endpoints changed": {have(roamed, "10.42.1.0/24"),
			[]Peer{with(func(p *Peer) { p.Endpoints = addrPorts(ep2, ep) })}, addrPorts(ep),
			"peer 1\nendpoint=192.0.2.2:51820\n"},
		"desired endpoints changed, the one in use is among them": {have(ep, "10.42.1.0/24"),
			[]Peer{with(func(p *Peer) { p.Endpoints = addrPorts(ep2, ep) })}, addrPorts(ep), ""},
		"removed": {have(ep, "10.42.1.0/24"), nil, addrPorts(ep), "peer 1\nremove=true\n"},
		"prefix exchanged": {have(ep, "10.42.1.0/24"), []Peer{with(func(p *Peer) { p.AllowedIPs = prefixes("10.42.2.0/24") })},
			addrPorts(ep),
			"peer 1\nallowed_ip=10.42.2.0/24\npeer 1\nupdate_only=true\nallowed_ip=-10.42.1.0/24\n"},
		"prefix moves": {have(ep, "10.42.1.0/24", "10.42.2.0/24"),
			[]Peer{settled, {PublicKey: key(2), AllowedIPs: prefixes("10.42.2.0/24")}}, addrPorts(ep),
			"peer 2\nallowed_ip=10.42.2.0/24\npeer 1\nupdate_only=true\nallowed_ip=-10.42.2.0/24\n"},
		"keepalive": {have(ep, "10.42.1.0/24"), []Peer{with(func(p *Peer) { p.Keepalive = 25 * time.Second })}, addrPorts(ep),
			"peer 1\npersistent_keepalive_interval=25\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := spell(plan(c.have, c.want, map[model.Key][]netip.AddrPort{key(1): c.before}))
			if got != c.text {
				t.Errorf("plan is\n%swant\n%s", got, c.text)
			}
		})
	}
}

func TestNormalize_InvalidPeers_ReportsAllAndKeepsOthers(t *testing.T) {
	good, err := normalize([]Peer{
		{Name: "own", PublicKey: key(9)},
		{Name: "keyless"},
		{Name: "one", PublicKey: key(1), AllowedIPs: prefixes("10.42.1.77/24"), Endpoints: addrPorts("0.0.0.0:5", "[::ffff:192.0.2.1]:7")},
		{Name: "twin", PublicKey: key(1)},
		{Name: "overlapping", PublicKey: key(2), AllowedIPs: prefixes("10.42.1.0/24", "10.42.2.0/24")},
	}, key(9))
	for _, want := range []string{"own key", "no public key", "same key as peer one", "peer one has it already",
		"expected a unicast address"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not contain %q", err, want)
		}
	}
	if len(good) != 2 || good[0].AllowedIPs[0].String() != "10.42.1.0/24" || len(good[1].AllowedIPs) != 1 ||
		good[0].Endpoints[0].String() != "192.0.2.1:7" {
		t.Errorf("kept %+v", good)
	}
}
