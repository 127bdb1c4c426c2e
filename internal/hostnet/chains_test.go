package hostnet

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// kubeProxyChains is a script of nft(8) that creates as many chains as kube-proxy has with a few hundred Services: the kernel
// lists them in several messages.
func kubeProxyChains() string {
	var b strings.Builder
	b.WriteString("add table ip kube-proxy\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "add chain ip kube-proxy service-%040d\n", i)
	}
	return b.String()
}

// Another program adds and removes chains all the time, as iptables(8) and flannel do. Every list must be complete: without
// kube-proxy's chains the agent would serve the Services as well.
func TestChains_OtherChainsChange_ListIsComplete(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		load := exec.Command("nft", "-f", "-")
		load.Stdin = strings.NewReader(kubeProxyChains())
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
		// It starts in the network namespace of this thread.
		other := exec.Command("sh", "-c", "while :; do nft add table ip other; nft delete table ip other; done")
		other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(-other.Process.Pid, syscall.SIGKILL); _ = other.Wait() }()
		interrupted := 0
		for range 200 {
			if _, err := chains(); err != nil {
				interrupted++
			}
			have, err := Chains()
			n := 0
			for _, c := range have {
				if c.KubeProxy() {
					n++
				}
			}
			if err != nil || n != 2000 {
				t.Fatalf("%d of 2000 chains, %v", n, err)
			}
		}
		t.Logf("%d of 200 lists were interrupted", interrupted)
	})
}

func TestChains_TablesOfNft_AreListed(t *testing.T) {
	inNetns(t, func(t *testing.T) {
		none, err := Chains()
		if err != nil || len(none) != 0 {
			t.Errorf("a new namespace: %v, %v", none, err)
		}
		sh(t, `nft '
			add table ip kube-proxy
			add chain ip kube-proxy services
			add table inet fw
			add chain inet fw first { type filter hook forward priority 0; policy drop; }
			add chain inet fw incoming { type filter hook input priority 0; policy drop; }
			add chain inet fw second { type filter hook forward priority 5; policy accept; }
		'`)
		have, err := Chains()
		if err != nil {
			t.Error(err)
		}
		for _, want := range []Chain{{"kube-proxy", "services", false, false}, {"fw", "first", true, true}, {"fw", "incoming", false, true},
			{"fw", "second", true, false}} {
			if !slices.Contains(have, want) {
				t.Errorf("%v lacks %v", have, want)
			}
		}
	})
}
