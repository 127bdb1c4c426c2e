package records

import (
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func FuzzDecode(f *testing.F) {
	f.Add("n1", []byte(`{"v":1,"value":{"name":"n1"}}`))
	f.Add("10.42.0.0-24", []byte(`{"v":1,"value":{"cidr":"10.42.0.0/24","node":"n1","identity":"i"}}`))
	f.Add("", []byte(`{"v":-1,"value":null}`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		_, _ = DecodeCluster(raw) // none of them may panic
		_, _ = DecodePod(raw)
		if n, err := DecodeNode(raw, name); err == nil && (n.Name != name || n.Identity == "" || n.PublicKey.IsZero()) {
			t.Errorf("node record %q was accepted as %+v", name, n)
		}
		b, err := DecodeBlock(&mvccpb.KeyValue{Key: []byte("/blocks/" + name), Value: raw})
		if err == nil && (b.CIDR != b.CIDR.Masked() || b.Node == "" || b.Identity == "") {
			t.Errorf("block record %q was accepted as %+v", name, b)
		}
	})
}
