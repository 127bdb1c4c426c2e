package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/warrennet/warren/agent/cniserver"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Parameters of a Node's Pods.
const (
	Table    = 101
	Protocol = 157
	MTU      = 1420
)

// Node is a test node: a namespace with forwarding, rules for the table of the Pods' routes, and the agent's side of the
// plugin on a unix socket.
type Node struct {
	*Namespace
	Dir    string
	Socket string
	Pool   *ipam.Pool
	Server *cniserver.Server
	Kernel *veth.Kernel
	Log    *slog.Logger
	// Ready may be replaced before Start; "" is ready.
	Ready  func() string
	Blocks []netip.Prefix
	BootID string

	http *http.Server
	done chan error
}

// NewNode makes the namespace; files go to dir. Start begins to serve.
func NewNode(dir string, blocks ...netip.Prefix) (*Node, error) {
	ns, err := New()
	if err != nil {
		return nil, err
	}
	return newNode(ns, dir, blocks)
}

// HereNode makes a Node of the process's namespace, which the caller has created for that.
func HereNode(dir string, blocks ...netip.Prefix) (*Node, error) {
	ns, err := Here()
	if err != nil {
		return nil, err
	}
	return newNode(ns, dir, blocks)
}

func newNode(ns *Namespace, dir string, blocks []netip.Prefix) (*Node, error) {
	n := &Node{Namespace: ns, Dir: dir, Socket: filepath.Join(dir, "agent.sock"), Blocks: blocks, BootID: "boot",
		Ready: func() string { return "" }}
	err := errors.Join(
		n.Sysctl("ipv4/ip_forward", "1"), n.Sysctl("ipv6/conf/all/forwarding", "1"),
		n.Do(func() (err error) {
			if err := lookup(Table); err != nil {
				return err
			}
			n.Kernel, err = veth.NewKernel(Table)
			return err
		}))
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// lookup adds the rules for the table of the Pods' routes, as the agent does on a real node.
func lookup(table int) error {
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = fam, 115, table
		if err := netlink.RuleAdd(r); err != nil {
			return fmt.Errorf("add rule lookup %d: %w", table, err)
		}
	}
	return nil
}

// Start opens the pool and serves the socket.
func (n *Node) Start() (err error) {
	if n.Pool, err = ipam.OpenPool(ipam.PoolConfig{Dir: n.Dir, BootID: n.BootID, Blocks: n.Blocks}); err != nil {
		return err
	}
	n.Server = cniserver.New(cniserver.Config{Pool: n.Pool, Links: n.Kernel, MTU: func() int { return MTU }, Table: Table,
		Protocol: Protocol, Ready: n.Ready, Log: n.Log,
		DNS: func(string) api.DNS {
			return api.DNS{Servers: []string{"10.43.0.10"}, Searches: []string{"cluster.local"}}
		}})
	if err := os.Remove(n.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", n.Socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	n.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	n.Server.Attach(n.http, mux)
	n.done = make(chan error, 1)
	go func() { n.done <- n.http.Serve(l) }()
	return nil
}

// Stop ends the agent's side like a kill: connections break, and nothing is released.
func (n *Node) Stop() {
	if n.http == nil {
		return
	}
	n.http.Close()
	<-n.done
	// Handlers of broken connections may still undo their ADD; the closed pool refuses their writes.
	n.Pool.Close()
	n.http = nil
}

// Drain shuts the server down after the requests in progress.
func (n *Node) Drain(ctx context.Context) error { return n.http.Shutdown(ctx) }

// Close stops the Node and closes its namespace.
func (n *Node) Close() error {
	n.Stop()
	if n.Kernel != nil {
		n.Kernel.Close()
	}
	return n.Namespace.Close()
}
