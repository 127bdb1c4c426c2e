package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

// A link between two nodes drops large packets without ICMP errors. TCP continues in both directions and through a Service, a Pod
// that sends a datagram that is too large receives ICMP packet-too-big, and the former MTU is used again after the link recovers.
func TestPathMTU_LinkLosesLargePackets_TrafficContinues(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2, Family: Dual})
	ctx := context.Background()
	near, far := run(t, l, "n1", "near"), labelled(t, l, "n2", "far", "app=web")
	applyYAML(t, l, web("web", "app: web", ""))
	peer := func(node, name string) (p api.Peer, err error) {
		st, err := l.Status(ctx, node)
		for _, p := range st.Peers {
			if p.Name == name {
				return p, err
			}
		}
		return p, fmt.Errorf("no peer %s: %v", name, err)
	}
	known := func(want string, ok func(mtu int) bool) {
		t.Helper()
		for _, x := range [][2]string{{"n1", "n2"}, {"n2", "n1"}} {
			testutil.Eventually(t, x[0]+" finds the path to "+x[1]+want, func() error {
				stuck(l, near, far) // an idle path is not probed
				p, err := peer(x[0], x[1])
				if err == nil && !ok(p.PathMTU) {
					err = fmt.Errorf("path MTU %d", p.PathMTU)
				}
				return err
			})
		}
	}
	mustCall(t, l, near, far)
	switchLink(t, l, "n2", 1400)
	known(" narrow", func(mtu int) bool { return mtu >= 1296 && mtu <= 1344 })
	for _, x := range [][2]*Pod{{near, far}, {far, near}} {
		for _, a := range x[1].Addresses {
			bulk(t, l, x[0], x[1], a)
		}
	}
	mustConnect(t, fromPod(l, near), getSvc(t, l, "web").ips(t)[0], 7, 7, "far", near.Addresses[0])
	out, err := l.PodOutput(near, "ping", "-M", "do", "-c", "2", "-W", "1", "-s", "1392", far.Addresses[0].String())
	if err == nil || !strings.Contains(out+err.Error(), "mtu") {
		t.Errorf("a datagram of 1,420 bytes with DF: %v %s, expected word of the MTU", err, out)
	}
	if out := sh(t, l, "n1", l.Exe+" status"); !strings.Contains(out, "(path)") {
		t.Errorf("status does not show the narrow path:\n%s", out)
	}
	switchLink(t, l, "n2", 1500)
	known(" whole", func(mtu int) bool { return mtu == 0 })
}

// stuck transfers some kilobytes.
func stuck(l *Lab, from, to *Pod) {
	_, _ = l.PodOutput(from, "ping", "-c", "4", "-i", "0.2", "-W", "1", "-s", "1000", to.Addresses[0].String())
}
