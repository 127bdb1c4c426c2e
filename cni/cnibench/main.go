// Command cnibench measures CNI ADD and DEL as container runtimes call them (libcni in process, one exec per plugin)
// and compares warren-cni with the reference plugins ptp and host-local, in one run: both in the same node namespace,
// in turns every few calls, so that what else the machine does hits both. It needs root and changes nothing outside
// namespaces of its own.
//
// The agent's side runs inside this process, with the real handlers and the real address pool.
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
	flag.StringVar(&o.plugin, "plugin", "bin", "folder of warren-cni")
	flag.StringVar(&o.reference, "reference", "/usr/lib/cni", "folder of ptp and host-local; empty: warren alone")
	flag.IntVar(&o.pods, "pods", 250, "Pods that exist already in the second part")
	flag.IntVar(&o.calls, "calls", 60, "ADDs and DELs per measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.IntVar(&o.parallel, "parallel", 8, "calls at once in the parallel part")
	serve := flag.String("serve", "", "serve the agent's side in this network namespace, files in the folder named here, and do nothing else")
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

// serveOnly is the agent's side for a harness that brings its own node namespace.
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
