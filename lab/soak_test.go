package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soakTime is how long TestSoak_RandomFaults_ClusterRecovers runs; WARREN_SOAK=5m makes it longer.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("WARREN_SOAK")
	if s == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("WARREN_SOAK: %v", err)
	}
	return d
}

// Mixed traffic while agents are killed at random: long connections do not break, short ones and datagrams are answered
// by a backend of the right Service that sees the right client, and no capture shows a Pod's address in clear.
func TestSoak_RandomFaults_ClusterRecovers(t *testing.T) {
	long := soakTime(t)
	l := start(t, Spec{Nodes: 3, Family: Dual})
	for _, p := range []struct{ node, name, app string }{{"n1", "a1", "a"}, {"n2", "a2", "a"}, {"n3", "a3", "a"}, {"n2", "b2", "b"}} {
		labelled(t, l, p.node, p.name, "app="+p.app)
	}
	client, other := labelled(t, l, "n1", "client", "app=client"), labelled(t, l, "n3", "other", "app=client")
	applyYAML(t, l, web("a", "app: a", "  type: NodePort")+"---"+web("b", "app: b", "  type: NodePort"))
	hosts := map[string]string{"a": "a1 a2 a3", "b": "b2"}
	var wires []func() string
	for _, n := range l.NodeNames() {
		wires = append(wires, capture(t, l, n, "eth0", "net 10.42.0.0/16 or net fd42::/48"))
	}
	isV4 := netip.Addr.Is4
	talk := `exec 3<>/dev/tcp/%s/%d
		read -r x <&3
		for i in $(seq 1 %d); do
			echo line$i >&3
			read -r -t 20 y <&3 || exit 9
			[ "$y" = line$i ] || exit 8
			sleep .05
		done
		echo done`
	lines := int(long/(50*time.Millisecond)) * 3 / 4 // a line takes more than its pause
	var talks []*task
	type ask struct {
		from  asker
		to    netip.Addr
		hosts string
		tcp   int
		udp   int
		seen  netip.Addr
	}
	var asks []ask
	node1 := addrsOf(l.Spec.underlayAddrs("n1"))
	for name, want := range hosts {
		s := getSvc(t, l, name)
		tcp, udp := s.Spec.Ports[1].NodePort, s.Spec.Ports[2].NodePort
		for _, v4 := range []bool{true, false} {
			vip := family(s.ips(t), isV4, v4)[0]
			for _, c := range []*Pod{client, other} {
				own := family(c.Addresses, isV4, v4)[0]
				mustConnect(t, fromPod(l, c), vip, 7, 7, want, own)
				talks = append(talks, begin(t, l, in(l, c), "bash", "-c", fmt.Sprintf(talk, vip, 7, lines)))
				asks = append(asks, ask{fromPod(l, c), vip, want, 7, 7, own})
			}
			outside := family(node1, isV4, v4)[0]
			mustConnect(t, fromMachine(l, "etcd1"), outside, tcp, udp, want, netip.Addr{})
			talks = append(talks, begin(t, l, on(l, "etcd1"), "bash", "-c", fmt.Sprintf(talk, outside, tcp, lines)))
			asks = append(asks, ask{fromMachine(l, "etcd1"), outside, want, tcp, udp, netip.Addr{}})
		}
	}
	end := time.Now().Add(long)
	kills := make(chan int)
	go func() { // one agent at a time, so that a stall is one restart's
		n := 0
		for ; time.Now().Before(end); n++ {
			node := l.NodeNames()[rand.IntN(3)]
			if err := l.StopAgent(node, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			if err := l.StartAgent(node); err != nil {
				t.Error(err)
			}
			if err := l.waitNode(context.Background(), node); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
		}
		kills <- n
	}()
	answered := 0
	for time.Now().Before(end) {
		a := asks[rand.IntN(len(asks))]
		mustConnect(t, a.from, a.to, a.tcp, a.udp, a.hosts, a.seen)
		answered += 2
	}
	t.Logf("%d agents killed, %d short connections and datagrams answered, %d connections held", <-kills, answered, len(talks))
	for _, k := range talks {
		if text, err := k.wait(t, long+60*time.Second); err != nil || !strings.HasSuffix(strings.TrimSpace(text), "done") {
			t.Errorf("a connection broke: %v\n%s", err, tail(text, 3))
		}
	}
	for _, wire := range wires {
		if text := wire(); text != "" {
			t.Errorf("in clear on the wire:\n%s", text)
		}
	}
}
