package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// lanPool has addresses of the machines' own network, in both families.
const lanPool = `
apiVersion: warren.dev/v1alpha1
kind: AddressPool
metadata: {name: lan}
spec: {addresses: [192.168.77.200-192.168.77.231, "fd77::200-fd77::21f"]}
`

// lbState is what a node says of load balancer addresses.
func lbState(t *testing.T, l *Lab, node string) (lb api.LB) {
	t.Helper()
	if err := l.call(context.Background(), node, api.LBPath, &lb); err != nil {
		t.Fatal(err)
	}
	return lb
}

// lbAddrs waits for a Service's addresses.
func lbAddrs(t *testing.T, l *Lab, name string, n int) (out []netip.Addr) {
	t.Helper()
	eventually(t, "addresses of "+name, func() error {
		var s struct {
			Status struct {
				LoadBalancer struct {
					Ingress []struct{ IP, IPMode string }
				}
			}
		}
		raw := sh(t, l, "n1", l.Exe+" get svc "+name+" -o json")
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			return err
		}
		out = nil
		for _, in := range s.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err != nil || in.IPMode != "VIP" {
				return fmt.Errorf("status %+v: %v", s.Status, err)
			}
			out = append(out, a)
		}
		if len(out) != n {
			return fmt.Errorf("%v, expected %d", out, n)
		}
		return nil
	})
	return out
}

// owner waits until every one of the nodes names the same announcer of an address.
func owner(t *testing.T, l *Lab, a netip.Addr, nodes ...string) (who string) {
	t.Helper()
	eventually(t, "one announcer of "+a.String(), func() error {
		who = ""
		var seen []string
		for i, n := range nodes {
			here := ""
			for _, s := range lbState(t, l, n).Services {
				for _, x := range s.Addresses {
					if x.Address == a {
						here = x.Announcer
					}
				}
			}
			if seen = append(seen, n+" says "+here); i == 0 {
				who = here
			}
			if here == "" || here != who {
				return errors.New(strings.Join(seen, ", "))
			}
		}
		return nil
	})
	return who
}

// ownerMAC is the link address that a client has learnt for an address.
func neighbour(l *Lab, client string, a netip.Addr) string {
	out, _ := l.Output(client, "ip", "neigh", "show", a.String(), "dev", "eth0")
	if f := strings.Fields(out); len(f) > 2 && f[1] == "lladdr" {
		return f[2]
	}
	return ""
}

// Whole life of announced addresses: one node answers, a client outside of the cluster gets through in both families, and
// again within a moment after the announcing node's agent was killed, its cable cut, and while etcd is away.
func TestLoadBalancerTakeover(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 3, Family: Dual})
	labelled(t, l, "n1", "w1", "app=w")
	labelled(t, l, "n2", "w2", "app=w")
	labelled(t, l, "n3", "w3", "app=w")
	applyYAML(t, l, lanPool+"---"+web("w", "app: w", "  type: LoadBalancer"))
	client := fromMachine(l, "etcd1")
	for _, a := range lbAddrs(t, l, "w", 2) {
		who := owner(t, l, a, "n1", "n2", "n3")
		mustAsk(t, client, a, 7, 7, "w1 w2 w3", netip.Addr{})
		if got := neighbour(l, "etcd1", a); got != mac(who).String() {
			t.Errorf("%s: the client learnt %s, but %s announces it (%s)", a, got, who, mac(who))
		}
	}
	t.Log(sh(t, l, "n1", l.Exe+" lb"))
	_ = syscall.SIGKILL
	_ = time.Now
}
