package tunnel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"

	"github.com/warrennet/warren/internal/listen"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/tunnel/internal/limits"
)

// Config is what a Tunnel needs. Zero values mean the defaults named.
type Config struct {
	Name string // of the TUN device; warren0
	MTU  int    // of the TUN device in bytes: the underlay's less 80 (60 where no peer is reached over IPv6); 1420
	// Queues of the TUN: the first carries the traffic of peers, the others reflect local flows; one per CPU, at most 4.
	Queues                     int
	DisableSegmentationOffload bool // neither super-packets nor UDP segmentation
	PrivateKey                 model.Key
	ListenPort                 uint16 // UDP; 51820
	// Sockets have the UDP sockets, and the problem while the port or the socket of wg(8) cannot be opened. nil: the sockets end
	// with the tunnel.
	Sockets     *listen.Sockets
	Hook        Hook // nil: packets of the host go to peers, packets of peers to the host
	Log         *slog.Logger
	LockFile    string // /run/warren/<name>.lock
	UAPIDir     string // directory of <name>.sock for wg(8); /var/run/wireguard
	DisableUAPI bool   // no socket for wg(8)
	// Source4 and Source6 are the source addresses of the tunnel's own ICMP errors and path MTU probes. Without them, ICMP errors
	// come from the address that could not be reached, and there are no probes.
	Source4, Source6 netip.Addr
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "warren0"
	}
	if c.MTU == 0 {
		c.MTU = 1420
	}
	if c.Queues == 0 {
		c.Queues = min(4, runtime.NumCPU())
	}
	if c.ListenPort == 0 {
		c.ListenPort = 51820
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LockFile == "" {
		c.LockFile = "/run/warren/" + c.Name + ".lock"
	}
	if c.UAPIDir == "" {
		c.UAPIDir = "/var/run/wireguard"
	}
	return c
}

// validate reports every problem at once.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Name) > 15 || strings.ContainsAny(c.Name, "/ \t\n%") || c.Name == "." || c.Name == ".." {
		bad("device name %q: expected at most 15 characters without slash, percent or space", c.Name)
	}
	if c.MTU < limits.MinMTU4 || c.MTU > limits.MaxPacket-80 {
		errs = append(errs, mtuError(c.MTU))
	}
	if c.Queues < 1 || c.Queues > 256 {
		bad("queues %d: expected 1 to 256", c.Queues)
	}
	if c.PrivateKey.IsZero() {
		bad("no private key")
	}
	if c.Source4.IsValid() && !c.Source4.Is4() {
		bad("source %v: expected an IPv4 address", c.Source4)
	}
	if c.Source6.IsValid() && (!c.Source6.Is6() || c.Source6.Is4In6()) {
		bad("source %v: expected an IPv6 address", c.Source6)
	}
	return errors.Join(errs...)
}

func mtuError(mtu int) error {
	return fmt.Errorf("MTU %d: expected %d to %d", mtu, limits.MinMTU4, limits.MaxPacket-80)
}
