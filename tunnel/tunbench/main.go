// tunbench runs one end of a tunnel in the foreground, for comparisons with other tunnels in the same topology.
//
// Its settings are environment variables, as for the other tunnels of the comparison: SIDE (a or b), UNDER and UNDER_PEER
// (underlay addresses), OVER and OVER_PEER (addresses inside the tunnel, /24 or /64). It creates its device and address in
// the network namespace that it is started in, ends with SIGINT or SIGTERM, and then deletes the device.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel"
)

const port = 5183

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tunbench:", err)
		os.Exit(1)
	}
}

// keyOf returns the same key on both sides without an exchange; these tunnels carry benchmarks only.
func keyOf(side string) model.Key { return sha256.Sum256([]byte("tunbench " + side)) }

// otherSide returns "" for an invalid side.
func otherSide(side string) string {
	switch side {
	case "a":
		return "b"
	case "b":
		return "a"
	}
	return ""
}

func run(ctx context.Context) error {
	side, other := os.Getenv("SIDE"), otherSide(os.Getenv("SIDE"))
	under, err := netip.ParseAddr(os.Getenv("UNDER_PEER"))
	over, err2 := netip.ParseAddr(os.Getenv("OVER"))
	peer, err3 := netip.ParseAddr(os.Getenv("OVER_PEER"))
	if err := errors.Join(err, err2, err3); err != nil || other == "" {
		return fmt.Errorf("set SIDE (a or b), UNDER, UNDER_PEER, OVER and OVER_PEER: %w", err)
	}
	if f := os.Getenv("CPUPROFILE"); f != "" {
		out, err := os.Create(f + "." + side)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	public, err := tunnel.PublicKey(keyOf(other))
	if err != nil {
		return err
	}
	name := "ptb" + side
	lock := filepath.Join(os.TempDir(), name+".lock")
	t, err := tunnel.New(tunnel.Config{Name: name, MTU: number("MTU", 1420), Queues: number("QUEUES", min(4, runtime.NumCPU())),
		PrivateKey: keyOf(side), ListenPort: port, LockFile: lock, UAPIDir: filepath.Join(os.TempDir(), "tunbench-"+name),
		DisableSegmentationOffload: os.Getenv("NOOFFLOAD") != "", Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	if err := t.SetPeers([]tunnel.Peer{{Name: other, PublicKey: public, Endpoints: []netip.AddrPort{netip.AddrPortFrom(under, port)},
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(peer, peer.BitLen())}}}); err != nil {
		return err
	}
	defer tunnel.Delete(name, lock)
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-t.Ready():
	}
	if err := address(name, over); err != nil {
		return err
	}
	err = <-done
	if os.Getenv("STATS") != "" {
		fmt.Fprintf(os.Stderr, "%+v\n", t.Stats())
	}
	return err
}

func number(env string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return n
	}
	return def
}

func address(name string, a netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	addr, err := netlink.ParseAddr(netip.PrefixFrom(a, bits).String())
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("add %v to %s: %w", a, name, err)
	}
	return nil
}
