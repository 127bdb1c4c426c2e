package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var stockOnce = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(filepath.Dir(exe), "wireguard-go")
	cmd := exec.Command("go", "build", "-o", bin, "golang.zx2c4.com/wireguard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return bin, err
})

// buildStock builds the wireguard-go program in the version of go.mod.
func buildStock(t *testing.T) string {
	t.Helper()
	bin, err := stockOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// machine is the state of this machine that a lab must not change: links, routes, rules, forwarding and mounts.
func machine(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c",
		"ip -br link | cut -c1-60; ip rule; ip route; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding; ip netns list; grep -c . "+
			"/proc/self/mountinfo; hostname; ls /etc/cni /etc/warren 2>&1").CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}

// Several labs run at the same time and change nothing outside their namespaces. Down removes every trace, also of a lab
// whose processes were killed.
func TestLab_SeveralLabs_AreIndependent(t *testing.T) {
	before := machine(t)
	a, b := start(t, Spec{Nodes: 2}), start(t, Spec{Nodes: 2, Family: Dual})
	podsA, podsB := onePodEach(t, a), onePodEach(t, b)
	mustCall(t, a, podsA[0], podsA[1])
	mustCall(t, b, podsB[0], podsB[1])
	if now := machine(t); now != before {
		t.Errorf("a lab changed the machine:\n%s\nbefore\n%s", now, before)
	}
	if _, err := a.Output("n1", "ping", "-c1", "-W1", "192.0.2.1"); err == nil {
		t.Error("a node reached an address outside the lab")
	}
	for _, m := range []string{"n1", "switch", "etcd1"} { // a partial crash
		if err := a.kill(a.Pid(m, "hold"), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if err := a.Down(); err != nil {
		t.Errorf("down of a crashed lab: %v", err)
	}
	if _, err := os.Stat(a.Dir); err == nil {
		t.Error("the crashed lab's directory is still there")
	}
	mustCall(t, b, podsB[1], podsB[0])
	if err := b.Down(); err != nil {
		t.Error(err)
	}
	if now := machine(t); now != before {
		t.Errorf("after down the machine has:\n%s\nbefore\n%s", now, before)
	}
}

func TestLab_InvalidSpecs_AreRefused(t *testing.T) {
	for want, s := range map[string]Spec{
		"nodes: 999":             {Nodes: 999},
		"family: \"ipx\"":        {Family: "ipx"},
		"mtu: 100":               {MTU: 100},
		"etcd: 9":                {Etcd: 9},
		"there is no \"n7\"":     {Node: map[string]NodeSpec{"n7": {}}},
		"node.n1.mtu: 10 is out": {Node: map[string]NodeSpec{"n1": {MTU: 10}}},
	} {
		_, err := Up(context.Background(), Options{Root: t.TempDir(), Name: "bad", Exe: exe}, s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, expected %q", s, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(file, []byte("nodez: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSpec(file); err == nil {
		t.Error("an unknown key in lab.yaml was accepted")
	}
}

// The commands of the README, from up to down.
func TestLab_CommandLine_Works(t *testing.T) {
	root := t.TempDir()
	warren := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		args = append(args[:1:1], append([]string{"--root", root}, args[1:]...)...)
		out, err := exec.CommandContext(ctx, exe, args...).CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		if out, err := warren("lab", "down"); err != nil {
			t.Errorf("down: %v %s", err, out)
		}
	})
	for _, step := range []struct {
		args []string
		want string
		fail bool
	}{
		{[]string{"lab", "status"}, `there is no lab "default"`, true},
		{[]string{"lab", "up", "--nodes", "2", "--ipv6", "--dual-stack"}, "none of the others can be", true},
		{[]string{"lab", "up", "--nodes", "2"}, "lab default is up", false},
		{[]string{"lab", "up"}, `lab "default" exists`, true},
		{[]string{"lab", "demo"}, "host=echo-n2 client=", false},
		{[]string{"lab", "list"}, "default", false},
		{[]string{"lab", "status"}, "default/echo-n1", false},
		{[]string{"lab", "status", "n1", "-o", "json"}, `"ready": true`, false},
		{[]string{"lab", "status", "-o", "yaml"}, "neither text nor json", true},
		{[]string{"lab", "exec", "n1", "--", "hostname"}, "n1", false},
		{[]string{"lab", "exec", "n9", "--", "hostname"}, `lab default has no node "n9"`, true},
		{[]string{"lab", "pod", "run", "n1", "web", "--label", "app=web", "--ip", "10.42.250.1"}, "10.42.250.1", true},
		{[]string{"lab", "pod", "run", "n1", "web", "--label", "app=web"}, "Pod web on n1", false},
		{[]string{"lab", "pod", "run", "n1", "web"}, "runs on n1 already", true},
		{[]string{"lab", "pod", "exec", "web", "--", "hostname"}, "web", false},
		{[]string{"lab", "exec", "n1", "--", exe, "status"}, "node     n1, ready", false},
		{[]string{"lab", "cut", "n1", "n2"}, "", false},
		{[]string{"lab", "heal"}, "", false},
		{[]string{"lab", "restart", "n2"}, "", false},
		{[]string{"lab", "logs", "n2"}, "this node can attach Pods", false},
		{[]string{"lab", "logs", "n7"}, `lab default has no node "n7"`, true},
		{[]string{"lab", "pod", "rm", "web"}, "", false},
		{[]string{"lab", "pod", "rm", "web"}, "no Pod default/web", true},
		{[]string{"lab", "down"}, "", false},
		{[]string{"lab", "down"}, "", false},
	} {
		out, err := warren(step.args...)
		if (err != nil) != step.fail || !strings.Contains(out, step.want) {
			t.Errorf("warren %s: err %v, printed\n%s\nexpected %q, failure %v", strings.Join(step.args, " "), err, out, step.want,
				step.fail)
		}
	}
}
