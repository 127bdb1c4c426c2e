package records

import (
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func FuzzDecode(f *testing.F) {
	f.Add("n1", []byte(`{"v":1,"value":{"name":"n1"}}`))
	f.Add("n2", []byte(`{"v":1,"value":{"name":"n2","identity":"i","publicKey":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","endpoints":["0.0.0.0:51820","[::ffff:192.0.2.1]:0"],"addresses":["224.0.0.1","127.0.0.1",""],"podCIDRs":["10.42.3.3/24"],"mtu":1}}`))
	f.Add("x", []byte(`{"v":1,"value":{"Name":"x","Addrs":["0.0.0.0"],"HostPorts":[{"HostPort":0}]}}`))
	f.Add("c", []byte(`{"v":1,"value":{"podCIDRs":["10.42.0.0/16","10.43.0.0/16"],"blockBits":[8,64]}}`))
	f.Add("10.42.0.0-24", []byte(`{"v":1,"value":{"cidr":"10.42.0.0/24","node":"n1","identity":"i"}}`))
	f.Add("", []byte(`{"v":-1,"value":null}`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		if c, err := DecodeCluster(raw); err == nil && checkCluster(c) != nil {
			t.Errorf("cluster record was accepted as %+v", c)
		}
		if p, _, err := DecodePod(raw); err == nil && len(validPod(&p)) > 0 {
			t.Errorf("Pod record was accepted as %+v", p)
		}
		n, _, err := DecodeNode(raw, name)
		if err == nil && (n.Name != name || n.Identity == "" || n.PublicKey.IsZero() || len(validNode(&n)) > 0) {
			t.Errorf("node record %q was accepted as %+v", name, n)
		}
		b, err := DecodeBlock(&mvccpb.KeyValue{Key: []byte("/blocks/" + name), Value: raw})
		if err == nil && (b.CIDR != b.CIDR.Masked() || b.Node == "" || b.Identity == "") {
			t.Errorf("block record %q was accepted as %+v", name, b)
		}
	})
}
