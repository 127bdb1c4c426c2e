package tunnel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Config is what a Tunnel needs to know. Zero values mean the defaults named.
type Config struct {
	Name string // of the TUN device; warren0
	MTU  int    // of the TUN device in bytes: the underlay's less 80 (60 where no peer is reached over IPv6); 1420
	// Queues of the TUN: the first carries the peers' traffic, the others help with local streams; one per CPU, at
	// most 4.
	Queues         int
	DisableOffload bool // neither super-packets nor UDP segmentation
	PrivateKey     model.Key
	ListenPort     uint16 // UDP; 51820
	Hook           Hook   // nil: everything to the peers, everything from them to the host
	Log            *slog.Logger
	LockFile       string // /run/warren/<name>.lock
	UAPIDir        string // where <name>.sock for wg(8) is made; /var/run/wireguard
	DisableUAPI    bool   // no socket for wg(8)
	// Source4 and Source6 send the tunnel's own ICMP errors; without them they come from the address that could
	// not be reached.
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
	if c.Hook == nil {
		c.Hook = passHook{}
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
		bad("device name %q: at most 15 characters without slash, percent or space", c.Name)
	}
	if c.MTU < minMTU || c.MTU > maxPacket-80 {
		bad("MTU %d: from %d to %d", c.MTU, minMTU, maxPacket-80)
	}
	if c.Queues < 1 || c.Queues > 256 {
		bad("queues %d: from 1 to 256", c.Queues)
	}
	if c.PrivateKey.IsZero() {
		bad("no private key")
	}
	if c.Source4.IsValid() && !c.Source4.Is4() {
		bad("source %v: not IPv4", c.Source4)
	}
	if c.Source6.IsValid() && (!c.Source6.Is6() || c.Source6.Is4In6()) {
		bad("source %v: not IPv6", c.Source6)
	}
	return errors.Join(errs...)
}
