// Package datapath guards the balancer and the tunnel for readers outside of the data plane's goroutines: the handlers of the local
// API and of the metrics.
//
// The flow table and the offload's states are shared memory, and a read after they are unmapped is a SIGSEGV that no recover catches.
// So Close waits for every Use that has begun, and a later Use gets nothing. The package owns neither the balancer nor the tunnel.
package datapath

import (
	"sync"

	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// Guard gives readers access to the balancer and the tunnel while both exist. Its zero value gives none.
type Guard struct {
	mu  sync.RWMutex
	lb  *servicelb.Balancer
	tun *tunnel.Tunnel
}

// Open gives access to lb and tun; the tunnel must be up.
func (g *Guard) Open(lb *servicelb.Balancer, tun *tunnel.Tunnel) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lb, g.tun = lb, tun
}

// Close ends the access and returns when no Use runs.
func (g *Guard) Close() { g.Open(nil, nil) }

// Use calls f and returns true. It returns false without a call while there is no access: before the first claim, until the tunnel is
// up, and during the stop. f must not call Use and must not retain its arguments.
func (g *Guard) Use(f func(lb *servicelb.Balancer, tun *tunnel.Tunnel)) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.lb == nil {
		return false
	}
	f(g.lb, g.tun)
	return true
}
