package records

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestDecodeCluster_InvalidField_ErrorNamesFieldValueAndExpectation(t *testing.T) {
	const valid = `{"v":1,"value":{"name":"c","podCIDRs":["10.42.0.0/16","fd42::/48"],"blockBits":[24,64],"domain":"cluster.local","port":51820}}`
	if c, err := DecodeCluster([]byte(valid)); err != nil || len(c.PodCIDRs) != 2 || c.Port != 51820 {
		t.Fatalf("valid configuration: %+v %v", c, err)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"no range":                         {`"10.42.0.0/16","fd42::/48"`, ``, "podCIDRs: []: expected one range, or one per family"},
		"two ranges of a family":           {`fd42::/48`, `10.43.0.0/16`, "podCIDRs: [10.42.0.0/16 10.43.0.0/16]: expected one range, or one per family"},
		"host bits":                        {`10.42.0.0/16`, `10.42.0.1/16`, "podCIDRs: 10.42.0.1/16: expected an address range without host bits"},
		"empty range":                      {`10.42.0.0/16`, ``, "podCIDRs: invalid Prefix: expected an address range without host bits"},
		"block larger than range":          {`24`, `15`, "blockBits: 15 for the IPv4 range 10.42.0.0/16: expected 16 to 29"},
		"negative block bits":              {`24`, `-1`, "blockBits: -1 for the IPv4 range 10.42.0.0/16: expected 16 to 29"},
		"block bits without room for Pods": {`64`, `121`, "blockBits: 121 for the IPv6 range fd42::/48: expected 48 to 120"},
		"no port":                          {`51820`, `0`, "port: 0: expected 1 to 65535"},
		"domain with a space":              {`cluster.local`, `cluster local`, `domain: "cluster local": expected a DNS name (RFC 1123)`},
		"no domain":                        {`cluster.local`, ``, `domain: "": expected a DNS name (RFC 1123)`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := DecodeCluster([]byte(strings.Replace(valid, x.old, x.new, 1)))
			if err == nil || !strings.Contains(err.Error(), x.want) || len(c.PodCIDRs) != 0 {
				t.Errorf("%+v %v, expected the zero Cluster and %q", c, err, x.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("n1", []byte(`{"v":1,"value":{"name":"n1"}}`))
	f.Add("n1", []byte(`{"v":1,"value":{"name":"n1","identity":"i","publicKey":"`+strings.Repeat("A", 42)+`E=","mtu":1}}`))
	f.Add("10.42.0.0-24", []byte(`{"v":1,"value":{"cidr":"10.42.0.0/24","node":"n1","identity":"i"}}`))
	f.Add("", []byte(`{"v":-1,"value":null}`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		if c, err := DecodeCluster(raw); err == nil && (len(c.PodCIDRs) == 0 || c.Port == 0 || c.Domain == "") {
			t.Errorf("cluster configuration %q was accepted as %+v", raw, c)
		}
		_, _ = DecodePod(raw) // must not panic
		if r, err := DecodeRevocation(raw, name, time.Now()); err == nil && (r.Node != name || name == "") {
			t.Errorf("revocation %q was accepted as %+v", name, r)
		}
		if n, err := DecodeNode(raw, name); err == nil && (n.Name != name || n.Identity == "" || n.PublicKey.IsZero() ||
			n.MTU != 0 && n.MTU < minMTU) {
			t.Errorf("node record %q was accepted as %+v", name, n)
		}
		b, err := DecodeBlock(&mvccpb.KeyValue{Key: []byte("/blocks/" + name), Value: raw})
		if err == nil && (b.CIDR != b.CIDR.Masked() || b.Node == "" || b.Identity == "") {
			t.Errorf("block record %q was accepted as %+v", name, b)
		}
	})
}
