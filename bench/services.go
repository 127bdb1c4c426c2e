package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/lab"
)

const benchService = `
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  selector: {app: %s}
  ports:
  - {name: iperf, port: 5201}
  - {name: pong, port: 9009, protocol: UDP}
  - {name: conn, port: 9010}
`

// services measures a client Pod that reaches a backend Pod through a ClusterIP and directly, with the backend on the same node
// and on another one. On the same node it also measures kernel NAT. The direct ports differ from the Service's target
// ports, because reply rules redirect replies from those.
func services(ctx context.Context, o options) (err error) {
	l, done, err := upLab(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	client, err := l.RunPod(ctx, lab.PodSpec{Node: "n1", Name: "client", Args: []string{"sleep", "infinity"}})
	if err != nil {
		return err
	}
	for _, b := range []struct{ node, name string }{{"n1", "near"}, {"n2", "far"}} {
		backend, err := l.RunPod(ctx, lab.PodSpec{Node: b.node, Name: b.name, Args: []string{"sleep", "infinity"},
			Labels: map[string]string{"app": b.name}})
		if err != nil {
			return err
		}
		vip, err := makeService(l, b.name)
		if err != nil {
			return err
		}
		fmt.Printf("\nbackend on %s:\n", map[string]string{"n1": "the same node", "n2": "another node"}[b.node])
		targets := []target{
			{name: "direct", addr: backend.Addresses[0], iperf: "5301", pong: "9109", conn: "9110"},
			{name: "ClusterIP", addr: vip, iperf: "5201", pong: "9009", conn: "9010"},
		}
		if b.node == client.Node {
			// Ports of its own: to a server that has met the client at another address, the client's clock has gone back.
			w := target{name: "nftables", addr: nftAddr, iperf: "5401", pong: "9209", conn: "9210", off: func() error { return natOff(l) }}
			w.on = func() error { return natOn(l, w, backend.Addresses[0]) }
			targets = append(targets, w)
		}
		if err := throughService(ctx, l, o, client, backend, targets); err != nil {
			return err
		}
	}
	return nil
}

func makeService(l *lab.Lab, name string) (netip.Addr, error) {
	var out bytes.Buffer
	yaml := strings.NewReader(fmt.Sprintf(benchService, name, name))
	if err := l.Exec("n1", lab.Cmd{Args: []string{l.Exe, "apply", "-f", "-"}, Stdin: yaml, Stdout: &out, Stderr: &out}); err != nil {
		return netip.Addr{}, fmt.Errorf("apply: %w: %s", err, out.String())
	}
	text, err := l.Output("n1", l.Exe, "get", "svc", name, "-o", "json")
	if err != nil {
		return netip.Addr{}, err
	}
	var s struct {
		Spec struct {
			ClusterIP netip.Addr `json:"clusterIP"`
		} `json:"spec"`
	}
	return s.Spec.ClusterIP, errors.Join(err, json.Unmarshal([]byte(text), &s))
}

// target is an address and the ports at which the client reaches the backend: the backend's own address, the ClusterIP, or an
// address that the kernel translates.
type target struct {
	name              string
	addr              netip.Addr
	iperf, pong, conn string
	on, off           func() error // around a measurement; nil: nothing is to be done
}

// throughService starts the servers in the backend and measures every target in interleaved rounds.
func throughService(ctx context.Context, l *lab.Lab, o options, client, backend *lab.Pod, targets []target) error {
	for _, w := range targets {
		for _, args := range [][]string{{"iperf3", "-s", "-p", w.iperf}, {self(), "pongserver", ":" + w.pong},
			{self(), "connserver", ":" + w.conn}} {
			stop, err := podServer(l, backend, args...)
			if err != nil {
				return err
			}
			defer stop()
		}
	}
	t := newTable("direct")
	for range o.rounds {
		for _, w := range targets {
			if err := measureTarget(ctx, l, t, w, client, backend, o); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t.print()
	return nil
}

// measureTarget runs every load and latency test once against a target.
func measureTarget(ctx context.Context, l *lab.Lab, t *table, w target, client, backend *lab.Pod, o options) (err error) {
	if w.on != nil {
		if err := w.on(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.off()) }()
	}
	for _, x := range loads[:2] {
		p := *backend
		p.Addresses = []netip.Addr{w.addr}
		x.args = append([]string{"-p", w.iperf}, x.args...)
		got, err := repeated(ctx, func() (transfer, error) { return iperf(l, client, &p, o.seconds, x) })
		if err := t.addRate(x.name+" Gbit/s", w.name, got, err); err != nil {
			return err
		}
	}
	return latencies(l, t, w, client, o.seconds)
}

func latencies(l *lab.Lab, t *table, w target, client *lab.Pod, seconds int) error {
	for _, x := range []struct{ verb, port, p50, p99 string }{{"pingpong", w.pong, "round trip p50 us", "round trip p99 us"},
		{"connrate", w.conn, "connections/s", ""}} {
		out, err := l.PodOutput(client, self(), x.verb, net.JoinHostPort(w.addr.String(), x.port), strconv.Itoa(seconds))
		if err != nil {
			return err
		}
		f := strings.Fields(out)
		for i, name := range []string{x.p50, x.p99} {
			if name == "" || i >= len(f) {
				continue
			}
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return fmt.Errorf("%s printed %q", x.verb, out)
			}
			t.add(name, w.name, v)
		}
	}
	return nil
}

// connserver takes connections and closes them.
func connserver(ctx context.Context, args []string) error {
	lis, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { lis.Close() })()
	for {
		c, err := lis.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c.Close()
	}
}

// connrate makes one connection after the other and prints how many per second.
func connrate(_ context.Context, args []string) error {
	seconds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	n, start := 0, time.Now()
	for time.Since(start) < time.Duration(seconds)*time.Second {
		c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
		if err != nil {
			return err
		}
		_, _ = c.Read(make([]byte, 1)) // until the server has closed: no TIME_WAIT here
		c.Close()
		n++
	}
	fmt.Printf("%.1f\n", float64(n)/time.Since(start).Seconds())
	return nil
}
