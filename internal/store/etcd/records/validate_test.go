package records

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// Each invalid part is left out and reported. The valid parts of the same record stay.
func TestDecodeNode_InvalidParts_AreLeftOutAndReported(t *testing.T) {
	for _, tc := range []struct{ field, value string }{
		{"endpoints", `["0.0.0.0:51820","192.0.2.2:51820"]`},
		{"endpoints", `["192.0.2.2:51820","192.0.2.3:0"]`},
		{"endpoints", `["224.0.0.1:51820","192.0.2.2:51820"]`},
		{"endpoints", `["127.0.0.1:51820","192.0.2.2:51820"]`},
		{"endpoints", `["[::ffff:192.0.2.3]:51820","192.0.2.2:51820"]`},
		{"endpoints", `["[fe80::1]:51820","192.0.2.2:51820"]`},
		{"endpoints", `["","192.0.2.2:51820"]`},
		{"addresses", `["192.0.2.2","255.255.255.255"]`},
		{"addresses", `["192.0.2.2","::"]`},
		{"addresses", `["192.0.2.2","ff02::1"]`},
		{"podCIDRs", `["10.42.1.0/24","10.42.3.3/24"]`},
		{"podCIDRs", `["10.42.1.0/24","0.0.0.0/0"]`},
		{"mtu", `1`},
		{"mtu", `-5`},
		{"mtu", `70000`},
		{"zone", `"` + strings.Repeat("z", maxText+1) + `"`},
	} {
		t.Run(tc.field+" "+tc.value[:min(len(tc.value), 40)], func(t *testing.T) {
			fields := map[string]string{"endpoints": `["192.0.2.2:51820"]`, "addresses": `["192.0.2.2"]`, "podCIDRs": `["10.42.1.0/24"]`, "mtu": "0", "zone": `""`}
			fields[tc.field] = tc.value
			raw := `{"v":1,"value":{"name":"n2","identity":"i","publicKey":"` + model.Key{1}.String() + `"`
			for f, v := range fields {
				raw += `,"` + f + `":` + v
			}
			n, bad, err := DecodeNode([]byte(raw+"}}"), "n2")
			if err != nil || len(bad) != 1 || !strings.HasPrefix(bad[0], tc.field+": ") {
				t.Fatalf("problems %q, error %v", bad, err)
			}
			if len(n.Endpoints) != 1 || len(n.Addresses) != 1 || len(n.PodCIDRs) != 1 || n.MTU != 0 || n.Zone != "" {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestDecodePod_InvalidParts_AreLeftOutAndReported(t *testing.T) {
	p, bad, err := DecodePod([]byte(`{"v":1,"value":{"Name":"x","Addrs":["0.0.0.0","10.42.1.3"],
		"HostPorts":[{"Protocol":6,"HostPort":0,"ContainerPort":80},{"Protocol":6,"HostPort":65535,"ContainerPort":80}]}}`))
	if err != nil || len(bad) != 2 || len(p.Addrs) != 1 || len(p.HostPorts) != 1 {
		t.Errorf("%+v, problems %q, error %v", p, bad, err)
	}
}

// A claim counts if it has the cluster's block length, lies inside a range and overlaps no older claim.
func TestValidClaims_InvalidClaim_IsRefusedWithReason(t *testing.T) {
	c := model.Cluster{PodCIDRs: []netip.Prefix{prefix("10.42.0.0/16")}, BlockBits: [2]int{24, 64}}
	claim := func(cidr, node string, revision int64) Claim {
		return Claim{model.Block{CIDR: prefix(cidr), Node: node, Identity: "i"}, revision}
	}
	good := []Claim{claim("10.42.3.0/24", "n1", 10), claim("10.42.2.0/24", "n2", 3)}
	for _, tc := range []struct {
		bad Claim
		why string
	}{
		{claim("10.42.3.3/32", "n3", 20), "has 32 bits, expected 24"},
		{claim("10.42.3.3/32", "n3", 1), "has 32 bits, expected 24"}, // its age does not help
		{claim("10.42.0.0/16", "n3", 1), "has 16 bits, expected 24"},
		{claim("192.0.2.0/24", "n3", 1), "outside the Pod ranges"},
		{claim("fd42::/64", "n3", 1), "outside the Pod ranges"},
	} {
		t.Run(tc.bad.CIDR.String(), func(t *testing.T) {
			valid, refused := ValidClaims(c, append([]Claim{tc.bad}, good...))
			if len(valid) != 2 || valid[0].Node != "n2" || valid[1].Node != "n1" {
				t.Errorf("valid %v", valid)
			}
			if len(refused) != 1 || !strings.Contains(refused[tc.bad.CIDR], tc.why) {
				t.Errorf("refused %v, expected %q", refused, tc.why)
			}
		})
	}
	t.Run("the configuration is unknown", func(t *testing.T) {
		valid, refused := ValidClaims(model.Cluster{}, []Claim{claim("10.42.3.3/32", "n3", 20), good[0]})
		if len(valid) != 1 || valid[0].Node != "n1" ||
			!strings.Contains(refused[prefix("10.42.3.3/32")], "older claim of 10.42.3.0/24 by node n1") {
			t.Errorf("valid %v, refused %v", valid, refused)
		}
	})
}

func TestDecodeCluster_InvalidRanges_ReturnsError(t *testing.T) {
	for name, value := range map[string]string{
		"block larger than the range": `{"podCIDRs":["10.42.0.0/16"],"blockBits":[8,64]}`,
		"two ranges of one family":    `{"podCIDRs":["10.42.0.0/16","10.43.0.0/16"],"blockBits":[24,64]}`,
		"not masked":                  `{"podCIDRs":["10.42.3.3/16"],"blockBits":[24,64]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := DecodeCluster([]byte(`{"v":1,"value":` + value + `}`)); err == nil {
				t.Errorf("accepted as %+v", c)
			}
		})
	}
}
