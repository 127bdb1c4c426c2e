package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warrennet/warren/lab"
)

// contestant is a network path between two Pods.
type contestant struct {
	name string
	on   func() error
	pids []int // daemons whose CPU time counts
}

// mesh measures Pod to Pod across two nodes. Both contestants use the same Pods, veths and underlay: a policy
// routing rule on the two nodes selects warren0 or the device of the stock wireguard-go.
func mesh(ctx context.Context, o options) (err error) {
	l, done, err := upLab(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var pods [2]*lab.Pod
	for i, n := range l.NodeNames() {
		if pods[i], err = l.RunPod(ctx, lab.PodSpec{Node: n, Name: "p" + n, Args: []string{"sleep", "infinity"}}); err != nil {
			return err
		}
	}
	near, err := l.RunPod(ctx, lab.PodSpec{Node: "n2", Name: "near", Args: []string{"sleep", "infinity"}})
	if err != nil {
		return err
	}
	stock, err := startStock(l, o, pods)
	if err != nil {
		return err
	}
	warren := contestant{name: "warren", on: func() error { return route(l, pods, "warren0") },
		pids: []int{l.Pid("n1", "agent"), l.Pid("n2", "agent")}}
	t := newTable("wireguard-go")
	for _, c := range []contestant{stock, warren} {
		t.add("RSS idle MB", c.name, rssMB(c.pids[0]))
	}
	for range o.rounds {
		for _, c := range []contestant{stock, warren} {
			if err := c.on(); err != nil {
				return err
			}
			if err := measure(ctx, l, t, c, pods[0], pods[1], o); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	t.print()
	return sameNode(ctx, l, o, near, pods[1])
}

// upLab starts a lab of two nodes in a directory of its own; done removes both.
func upLab(ctx context.Context, o options) (l *lab.Lab, done func() error, err error) {
	exe, err := filepath.Abs(o.warren)
	if err != nil {
		return nil, nil, err
	}
	root, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return nil, nil, err
	}
	l, err = lab.Up(ctx, lab.Options{Root: root, Name: "bench", Exe: exe}, lab.Spec{Nodes: 2})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(root))
	}
	return l, func() error { return errors.Join(l.Down(), os.RemoveAll(root)) }, nil
}

// startStock runs wireguard-go on both nodes in addition to the agent, with its own port, key and routing table.
func startStock(l *lab.Lab, o options, pods [2]*lab.Pod) (contestant, error) {
	c := contestant{name: "wireguard-go", on: func() error { return route(l, pods, "stock0") }}
	bin, err := filepath.Abs(o.wgGo)
	if err != nil {
		return c, err
	}
	var keys, pubs [2]string
	for i, n := range l.NodeNames() {
		script := "umask 077; wg genkey >/run/stock.key; wg pubkey </run/stock.key"
		if pubs[i], err = l.Output(n, "sh", "-c", script); err != nil {
			return c, err
		}
		keys[i] = "/run/stock.key"
		pid, err := background(l, n, bin, "-f", "stock0")
		if err != nil {
			return c, err
		}
		c.pids = append(c.pids, pid)
	}
	for i, n := range l.NodeNames() {
		j := 1 - i
		script := fmt.Sprintf(`for i in $(seq 100); do [ -S /var/run/wireguard/stock0.sock ] && break; sleep .05; done
wg set stock0 listen-port 51999 private-key %s peer %s endpoint 192.168.77.%d:51999 allowed-ips %s/32
ip link set stock0 mtu 1420 up; ip route add default dev stock0 table 50`, keys[i], strings.TrimSpace(pubs[j]), 11+j, pods[j].Addresses[0])
		if _, err := l.Output(n, "sh", "-ec", script); err != nil {
			return c, err
		}
	}
	return c, nil
}

// route selects the device for the traffic between the two Pods: a policy routing rule for stock0, none for warren0.
func route(l *lab.Lab, pods [2]*lab.Pod, device string) error {
	for i, n := range l.NodeNames() {
		rule := fmt.Sprintf("to %s lookup 50 pref 50", pods[1-i].Addresses[0])
		script := "ip rule del " + rule + " 2>/dev/null; true"
		if device == "stock0" {
			script = "ip rule show pref 50 | grep -q . || ip rule add " + rule
		}
		if _, err := l.Output(n, "sh", "-c", script); err != nil {
			return err
		}
	}
	return nil
}

// background starts a process on a machine and returns its pid. It has a session of its own, as a lab's agents have and as a
// node's daemons have a control group: the kernel shares the processors out among those first (sched(7), autogroup). In
// the session of the load that it carries, the same daemon is switched to half as often and takes 10 to 20 % less CPU per byte.
func background(l *lab.Lab, machine string, args ...string) (int, error) {
	out, err := l.Output(machine, "sh", "-c", "setsid "+strings.Join(args, " ")+" >/run/bg.log 2>&1 & echo $!")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

type load struct {
	name string
	args []string
	udp  bool
}

var loads = []load{
	{"TCP 1 stream", nil, false},
	{"TCP 4 streams", []string{"-P", "4"}, false},
	{"UDP 1340 B", []string{"-u", "-b", "0", "-l", "1340"}, true},
	{"UDP 64 B", []string{"-u", "-b", "0", "-l", "64"}, true},
}

// measure runs every load once from one Pod to another.
func measure(ctx context.Context, l *lab.Lab, t *table, c contestant, from, to *lab.Pod, o options) error {
	stop, err := podServer(l, to, "iperf3", "-s")
	if err != nil {
		return err
	}
	defer stop()
	for _, x := range loads {
		var cpu float64
		got, err := repeated(ctx, func() (transfer, error) {
			before := cpuSeconds(c.pids)
			got, err := iperf(l, from, to, o.seconds, x)
			cpu = cpuSeconds(c.pids) - before
			return got, err
		})
		if err := t.addRate(x.name+" Gbit/s", c.name, got, err); err != nil {
			return err
		}
		if err != nil {
			t.invalid(x.name+" CPU s/GB", c.name)
			continue
		}
		t.add("RSS under load MB", c.name, rssMB(c.pids[0]))
		t.add(x.name+" CPU s/GB", c.name, cpu/(got.bytes/1e9))
	}
	stopPong, err := podServer(l, to, self(), "pongserver", ":9009")
	if err != nil {
		return err
	}
	defer stopPong()
	out, err := l.PodOutput(from, self(), "pingpong", to.Addresses[0].String()+":9009", strconv.Itoa(o.seconds))
	if err != nil {
		return err
	}
	var p50, p99 float64
	if _, err := fmt.Sscan(out, &p50, &p99); err != nil {
		return fmt.Errorf("pingpong printed %q: %w", out, err)
	}
	t.add("round trip p50 us", c.name, p50)
	t.add("round trip p99 us", c.name, p99)
	return nil
}

func self() string {
	exe, _ := os.Executable() // only fails without /proc
	return exe
}

// iperf runs one client of iperf3 in a Pod against a server in another one.
func iperf(l *lab.Lab, from, to *lab.Pod, seconds int, x load) (transfer, error) {
	args := append([]string{"iperf3", "-J", "-c", to.Addresses[0].String(), "-t", strconv.Itoa(seconds)}, x.args...)
	for try := 0; ; try++ {
		out, err := l.PodOutput(from, args...)
		if err == nil {
			return parseIperf(out, x.udp)
		}
		if try == 20 {
			return transfer{}, err
		}
		time.Sleep(100 * time.Millisecond) // the server does not listen yet, or still serves the previous client
	}
}

// podServer starts a server in a Pod and returns how to end it.
func podServer(l *lab.Lab, p *lab.Pod, args ...string) (func(), error) {
	done, pidR := make(chan error, 1), &bytes.Buffer{}
	script := "echo $$; exec " + strings.Join(args, " ") + " >/dev/null 2>&1"
	ready := make(chan struct{})
	go func() {
		done <- l.ExecPod(p, lab.Cmd{Args: []string{"sh", "-c", script}, Stdout: &firstLine{buf: pidR, ready: ready}})
	}()
	select {
	case <-ready:
	case err := <-done:
		return nil, fmt.Errorf("%s: %w", args[0], err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(pidR.String()))
	return func() { _ = syscall.Kill(pid, syscall.SIGKILL); <-done }, err
}

// firstLine closes ready when a line has been written.
type firstLine struct {
	buf   *bytes.Buffer
	ready chan struct{}
	done  bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	f.buf.Write(b)
	if !f.done && bytes.ContainsRune(f.buf.Bytes(), '\n') {
		f.done = true
		close(f.ready)
	}
	return len(b), nil
}

// cpuSeconds sums the CPU time of all threads of the processes (schedstat: nanoseconds).
func cpuSeconds(pids []int) float64 {
	var sum float64
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, f := range tasks {
			raw, _ := os.ReadFile(f) // a thread may have ended
			var ns float64
			if _, err := fmt.Sscan(string(raw), &ns); err == nil {
				sum += ns / 1e9
			}
		}
	}
	return sum
}

// rssMB reads a process's resident set.
func rssMB(pid int) float64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)) // 0 for one that ended
	var size, resident float64
	_, _ = fmt.Sscan(string(raw), &size, &resident)
	return resident * float64(os.Getpagesize()) / 1e6
}

// sameNode compares two Pods of one node with two namespaces joined to the same node by bare veths and routes.
func sameNode(ctx context.Context, l *lab.Lab, o options, a, b *lab.Pod) error {
	fmt.Println("\nsame node:")
	script := `set -e
for i in 1 2; do ip netns add bare$i; ip link add bare$i type veth peer name eth0 netns bare$i
ip link set bare$i up; ip -n bare$i link set eth0 up; ip -n bare$i link set lo up
ip -n bare$i addr add 172.31.0.$i/32 dev eth0; ip -n bare$i route add 169.254.9.9 dev eth0; ip -n bare$i route add default via 169.254.9.9 dev eth0
ip link set bare$i mtu 1420; ip -n bare$i link set eth0 mtu 1420
ip addr add 169.254.9.9/32 dev bare$i; ip route add 172.31.0.$i dev bare$i; done`
	if _, err := l.Output("n2", "sh", "-c", script); err != nil {
		return err
	}
	t := newTable("bare veths")
	for range o.rounds {
		for _, c := range []struct {
			name           string
			client, server []string
			address        string
		}{
			{"bare veths", []string{"ip", "netns", "exec", "bare1"}, []string{"ip", "netns", "exec", "bare2"}, "172.31.0.2"},
			{"warren", []string{"ip", "netns", "exec", "default-" + a.Name}, []string{"ip", "netns", "exec", "default-" + b.Name},
				b.Addresses[0].String()},
		} {
			for _, p := range []string{"1", "4"} {
				got, err := repeated(ctx, func() (transfer, error) { return iperfOnNode(l, c.client, c.server, c.address, p, o.seconds) })
				if err := t.addRate("TCP "+p+" streams Gbit/s", c.name, got, err); err != nil {
					return err
				}
			}
		}
	}
	t.print()
	return nil
}

// iperfOnNode runs a server and a client of iperf3 in two namespaces of node n2. Both are bounded in time, and the report
// of an earlier run is removed first: the result is that of this run or an error.
func iperfOnNode(l *lab.Lab, client, server []string, address, streams string, seconds int) (transfer, error) {
	script := fmt.Sprintf(`rm -f /run/same.json
timeout %[1]d %[2]s iperf3 -s -1 >/dev/null 2>&1 &
for i in $(seq 50); do
  timeout %[1]d %[3]s iperf3 -c %[4]s -t %[5]d -P %[6]s -J >/run/same.json && break
  sleep .1
done
wait
cat /run/same.json`, seconds+10, strings.Join(server, " "), strings.Join(client, " "), address, seconds, streams)
	out, err := l.Output("n2", "sh", "-c", script)
	if err != nil {
		return transfer{}, err
	}
	return parseIperf(out, false)
}
