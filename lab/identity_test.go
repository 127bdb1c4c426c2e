package lab

import (
	"strings"
	"testing"
)

// A node's client certificate does not open the peer port of etcd (E19), which the members use among themselves.
func TestEtcd_NodeCertificateAtPeerPort_IsRefused(t *testing.T) {
	l := start(t, Spec{Nodes: 1, Etcd: 3})
	curl := "curl -sS --max-time 5 --cacert " + pkiInside + "/ca.crt --cert " + pkiInside + "/tls.crt --key " + pkiInside + "/tls.key "
	for _, path := range []string{"/members", "/raft/probing"} {
		url := l.Spec.etcdURL("etcd1", etcdPeerPort) + path
		if out, err := l.Output("n1", "sh", "-c", curl+url); err == nil {
			t.Errorf("%s answered a node: %s", path, out)
		}
		if out := sh(t, l, "etcd2", curl+url); path == "/members" && !strings.Contains(out, "etcd1") {
			t.Errorf("%s answered another member: %q", path, out)
		}
	}
}
