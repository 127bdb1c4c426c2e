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

// services measures a Pod that calls a Pod through a ClusterIP beside the same Pods called directly: backend on the same
// node, there also beside kernel NAT, and on another one. The direct ports are others than the Service's target ports,
// whose replies are steered.
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
		backend, err := l.RunPod(ctx, lab.PodSpec{Node: b.node, Name: b.name, Args: []string{"sleep", "infinity"}, Labels: map[string]string{"app": b.name}})
		if err != nil {
			return err
		}
		vip, err := makeService(l, b.name)
		if err != nil {
			return err
		}
		fmt.Printf("\nbackend on %s:\n", map[string]string{"n1": "the same node", "n2": "another node"}[b.node])
		ways := []way{
			{name: "direct", addr: backend.Addresses[0], iperf: "5301", pong: "9109", conn: "9110"},
			{name: "ClusterIP", addr: vip, iperf: "5201", pong: "9009", conn: "9010"},
		}
		if b.node == client.Node {
			// Ports of its own: to a server that has met the client at another address, the client's clock has gone back.
			w := way{name: "nftables", addr: nftAddr, iperf: "5401", pong: "9209", conn: "9210", off: func() error { return natOff(l) }}
			w.on = func() error { return natOn(l, w, backend.Addresses[0]) }
			ways = append(ways, w)
		}
		if err := throughService(l, o, client, backend, ways); err != nil {
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

// way is how the client calls the backend: by its own address and other ports, by the Service, or by an address that the
// kernel translates.
type way struct {
	name              string
	addr              netip.Addr
	iperf, pong, conn string
	on, off           func() error // around a measurement; nil: nothing is to be done
}

func throughService(l *lab.Lab, o options, client, backend *lab.Pod, ways []way) error {
	for _, w := range ways {
		for _, args := range [][]string{{"iperf3", "-s", "-p", w.iperf}, {self(), "pongserver", ":" + w.pong}, {self(), "connserver", ":" + w.conn}} {
			stop, err := podServer(l, backend, args...)
			if err != nil {
				return err
			}
			defer stop()
		}
	}
	t := newTable("direct")
	for range o.rounds {
		for _, w := range ways {
			if err := measureWay(l, t, w, client, backend, o); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t.print()
	return nil
}

func measureWay(l *lab.Lab, t *table, w way, client, backend *lab.Pod, o options) (err error) {
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
		_, bps, err := iperf(l, client, &p, o.seconds, x)
		if err != nil {
			return err
		}
		t.add(x.name+" Gbit/s", w.name, bps/1e9)
	}
	return latencies(l, t, w, client, o.seconds)
}

func latencies(l *lab.Lab, t *table, w way, client *lab.Pod, seconds int) error {
	for _, x := range []struct{ verb, port, p50, p99 string }{{"pingpong", w.pong, "round trip p50 us", "round trip p99 us"}, {"connrate", w.conn, "connections/s", ""}} {
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
				return fmt.Errorf("%s said %q", x.verb, out)
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
