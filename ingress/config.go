package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
)

// Listener numbers, as the Router receives them.
const (
	HTTP = iota
	HTTPS
)

// Source delivers the objects that routes are compiled from: on once for the first state and once after each burst of changes, and
// state with an error while the store does not answer, with nil when it does. It returns when ctx ends.
type Source func(ctx context.Context, on func(*model.IngressObjects), state func(error))

// Config is the configuration of one ingress process.
type Config struct {
	HTTP, HTTPS string // addresses to listen on; "" for none
	// Status is the address that serves metrics and health, "" for none.
	Status string
	// Socket is the path of the local API, "" for none.
	Socket string
	// AccessLog is a file, "-" for standard output, "" for none.
	AccessLog string
	// Sample is how many requests one line of the access log stands for; responses of status 500 and above are all logged.
	Sample         int
	TrustedProxies []netip.Prefix
	// Drain is how long requests in progress may take after the process was ended.
	Drain time.Duration
	// Linger is how long the process accepts connections after it was ended, while load balancers still send some.
	Linger time.Duration
	Routes route.Config
}

// Validate reports every invalid value.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, a := range []struct{ flag, value string }{{"http", c.HTTP}, {"https", c.HTTPS}, {"status", c.Status}} {
		if a.value == "" {
			continue
		}
		if _, err := net.ResolveTCPAddr("tcp", a.value); err != nil {
			bad("--%s %q: expected address:port or :port: %w", a.flag, a.value, err)
		}
	}
	if c.HTTP == "" && c.HTTPS == "" {
		bad("--http and --https are both empty: expected at least one address to listen on")
	}
	if c.Sample < 1 {
		bad("--access-log-sample %d: expected 1 or more", c.Sample)
	}
	if c.Drain < 0 || c.Drain > time.Hour {
		bad("--drain %s: expected 0s to 1h", c.Drain)
	}
	if c.Linger < 0 || c.Linger > time.Hour {
		bad("--linger %s: expected 0s to 1h", c.Linger)
	}
	switch c.Routes.Balancing {
	case route.LeastRequests, route.RoundRobin:
	default:
		bad("--balancing %q: expected %s or %s", c.Routes.Balancing, route.LeastRequests, route.RoundRobin)
	}
	for _, h := range c.Routes.SharedHosts {
		if name := strings.TrimPrefix(h, "*."); h != "*" && (name == "" || strings.ContainsAny(name, "*/: ")) {
			bad("--shared-hosts %q: expected a host name, *.example.com, or * for all", h)
		}
	}
	return errors.Join(errs...)
}
