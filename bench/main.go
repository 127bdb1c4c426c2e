// Command bench measures warren and comparable programs in the same run and prints ratios. Machines are shared and noisy, so
// only ratios between columns of one table are meaningful. A table shows medians over interleaved rounds.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// suites are the benchmarks by name; the order is that of a full run.
var suites = []struct {
	name, about string
	run         func(ctx context.Context, o options) error
}{
	{"mesh", "Pod to Pod across nodes, compared with stock wireguard-go on the same nodes; same-node Pods, compared with two veths", mesh},
	{"services", "Pod to Pod through a ClusterIP, compared with the same Pods directly and through rules as kube-proxy writes them",
		services},
	{"start", "start of an agent in a cluster of 1,000 Services: time until the Services are reachable", start},
	{"join", "nodes joining at once: time and store requests per node", join},
	{"dns", "cluster names, compared with CoreDNS (file and cache plugins) and the DNS library over a map, one CPU each", dnsSuite},
}

type options struct {
	rounds  int
	seconds int
	warren  string // path of the binary
	wgGo    string // path of the stock wireguard-go
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "pingpong": // inside a Pod
			return pingpong(ctx, args[1:])
		case "pongserver":
			return pongserver(ctx, args[1:])
		case "reach":
			return reach(ctx, args[1:])
		case "connserver":
			return connserver(ctx, args[1:])
		case "connrate":
			return connrate(ctx, args[1:])
		}
	}
	o, names, err := parse(args)
	if err != nil {
		return err
	}
	for _, s := range suites {
		if len(names) == 0 || names[s.name] {
			fmt.Printf("\n## %s: %s\n\n", s.name, s.about)
			if err := s.run(ctx, o); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

func parse(args []string) (options, map[string]bool, error) {
	o := options{rounds: 3, seconds: 3, warren: "bin/warren", wgGo: "bin/wireguard-go"}
	names := map[string]bool{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		var err error
		switch {
		case ok && k == "rounds":
			_, err = fmt.Sscan(v, &o.rounds)
		case ok && k == "seconds":
			_, err = fmt.Sscan(v, &o.seconds)
		case ok && k == "warren":
			o.warren = v
		case ok && k == "wireguard-go":
			o.wgGo = v
		case known(a):
			names[a] = true
		default:
			err = fmt.Errorf("%q is neither a suite nor rounds=, seconds=, warren=, wireguard-go=", a)
		}
		if err != nil {
			return o, nil, err
		}
	}
	return o, names, nil
}

func known(name string) bool {
	for _, s := range suites {
		if s.name == name {
			return true
		}
	}
	return false
}
