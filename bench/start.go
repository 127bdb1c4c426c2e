package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warrennet/warren/lab"
)

const (
	startServices = 1000
	startSample   = 40 // of them, spread over all
)

// start measures how long after the start of an agent a Pod of its node reaches Services: of an agent that was killed and
// finds what it keeps, and of one that must learn everything from the store again. The flow table is set aside both times.
func start(ctx context.Context, o options) (err error) {
	l, done, err := upLab(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	client, err := l.RunPod(ctx, lab.PodSpec{Node: "n1", Name: "client", Args: []string{"sleep", "infinity"}})
	if err != nil {
		return err
	}
	backend, err := l.RunPod(ctx, lab.PodSpec{Node: "n1", Name: "near", Args: []string{"sleep", "infinity"},
		Labels: map[string]string{"app": "near"}})
	if err != nil {
		return err
	}
	stop, err := podServer(l, backend, self(), "connserver", ":9010")
	if err != nil {
		return err
	}
	defer stop()
	sample, err := manyServices(l)
	if err != nil {
		return err
	}
	t := newTable("from the store")
	for range o.rounds {
		for name, forget := range map[string]string{"from the disk": "/run/warren/flows",
			"from the store": "/run/warren/flows /var/lib/warren/snapshot.json"} {
			ms, err := restart(l, client, sample, forget)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			t.add(fmt.Sprintf("start to %d Services reachable, ms", startServices), name, ms)
		}
	}
	t.print()
	return nil
}

// manyServices makes the Services and returns the addresses of the sample.
func manyServices(l *lab.Lab) (sample []string, err error) {
	var yaml strings.Builder
	for i := range startServices {
		fmt.Fprintf(&yaml, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec:\n  selector: {app: near}\n  ports: [{port: "+
			"80, targetPort: 9010}]\n", i)
	}
	var out bytes.Buffer
	if err := l.Exec("n1", lab.Cmd{Args: []string{l.Exe, "apply", "-f", "-"}, Stdin: strings.NewReader(yaml.String()), Stdout: &out,
		Stderr: &out}); err != nil {
		return nil, fmt.Errorf("apply: %w: %s", err, out.String())
	}
	text, err := l.Output("n1", l.Exe, "get", "svc", "-o", "json")
	if err != nil {
		return nil, err
	}
	var all []string
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var s struct {
			Spec struct {
				ClusterIP netip.Addr `json:"clusterIP"`
			} `json:"spec"`
		}
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all = append(all, netip.AddrPortFrom(s.Spec.ClusterIP, 80).String())
	}
	if len(all) < startServices {
		return nil, fmt.Errorf("%d Services of %d", len(all), startServices)
	}
	for i := range startSample {
		sample = append(sample, all[(i+1)*startServices/startSample-1])
	}
	return sample, nil
}

// restart kills the agent, starts it without the files to forget, and returns the milliseconds until the whole sample was reached.
func restart(l *lab.Lab, client *lab.Pod, sample []string, forget string) (ms float64, err error) {
	time.Sleep(2 * time.Second) // what changed before is on disk
	if err := l.StopAgent("n1", syscall.SIGKILL); err != nil {
		return 0, err
	}
	if _, err := l.Output("n1", "sh", "-c", "rm -f "+forget); err != nil {
		return 0, err
	}
	type result struct {
		out string
		err error
	}
	reached := make(chan result, 1)
	go func() {
		out, err := l.PodOutput(client, append([]string{self(), "reach"}, sample...)...)
		reached <- result{out, err}
	}()
	time.Sleep(300 * time.Millisecond) // it tries in vain meanwhile
	began := time.Now()
	if err := l.StartAgent("n1"); err != nil {
		return 0, err
	}
	r := <-reached
	if r.err != nil {
		return 0, r.err
	}
	at, err := strconv.ParseInt(strings.TrimSpace(r.out), 10, 64)
	return float64(time.Unix(0, at).Sub(began).Microseconds()) / 1e3, err
}

// reach connects to every address in turn until it answers, and prints when the last one did, in nanoseconds of Unix time.
func reach(_ context.Context, addrs []string) error {
	for deadline := time.Now().Add(time.Minute); len(addrs) > 0; {
		c, err := net.DialTimeout("tcp", addrs[0], 5*time.Millisecond)
		if err != nil {
			if time.Now().After(deadline) {
				return err
			}
			continue
		}
		c.Close()
		addrs = addrs[1:]
	}
	fmt.Println(time.Now().UnixNano())
	return nil
}
