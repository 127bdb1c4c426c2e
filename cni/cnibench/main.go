// Command cnibench measures CNI ADD and DEL as container runtimes call them: libcni in the process, one exec per plugin.
//
// It compares warren-cni with the reference plugins ptp and host-local in the same node namespace. The plugins take turns
// every few calls, so that other load of the machine affects both. The agent's side runs in this process, with the agent's
// handlers and address pool. The command needs root and changes nothing outside its own network namespaces.
package main

import (
	"flag"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/warrennet/warren/cni/internal/sandbox"
)

type options struct {
	plugin    string
	reference string
	pods      int
	calls     int
	rounds    int
	parallel  int
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("cnibench: ")
	var o options
	flag.StringVar(&o.plugin, "plugin", "bin", "directory of warren-cni")
	flag.StringVar(&o.reference, "reference", "/usr/lib/cni", "directory of ptp and host-local; empty for warren-cni alone")
	flag.IntVar(&o.pods, "pods", 250, "Pods that exist before the measurements of the second part")
	flag.IntVar(&o.calls, "calls", 60, "ADDs and DELs per measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.IntVar(&o.parallel, "parallel", 8, "concurrent calls in the parallel part")
	serve := flag.String("serve", "", "only serve the agent's side in this network namespace, with its files in this directory")
	flag.Parse()
	do := func() error { return run(o) }
	if *serve != "" {
		do = func() error { return serveOnly(*serve) }
	}
	err := do()
	if err != nil {
		log.Fatal(err)
	}
}

var blocks = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/20")}

func run(o options) error {
	dir, err := os.MkdirTemp("", "cnibench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	node, err := sandbox.NewNode(dir, blocks...)
	if err != nil {
		return err
	}
	defer node.Close()
	if err := node.Start(); err != nil {
		return err
	}
	peers, err := makePeers(o, node)
	if err != nil {
		return err
	}
	t := table{}
	for range o.rounds {
		if err := measure(o, node, peers, t); err != nil {
			return err
		}
	}
	t.print(os.Stdout, peers)
	return nil
}

// serveOnly runs the agent's side for a harness that has its own node namespace.
func serveOnly(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	node, err := sandbox.HereNode(dir, blocks...)
	if err != nil {
		return err
	}
	if err := node.Start(); err != nil {
		return err
	}
	defer node.Stop()
	log.Print("serving ", filepath.Join(dir, "agent.sock"))
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	<-c
	return nil
}
