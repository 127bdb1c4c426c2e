package agent

import (
	"sync"

	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// dataPath lends the balancer and the tunnel to readers outside of the data plane's goroutines: the handlers of the
// local API and of the metrics. The flow table and the offload's states are shared memory, and a read after they are
// unmapped is a SIGSEGV; so close waits for every use that has begun, and later uses get nothing.
type dataPath struct {
	mu  sync.RWMutex
	lb  *servicelb.Balancer
	tun *tunnel.Tunnel
}

// open begins to lend; the tunnel must be up.
func (d *dataPath) open(lb *servicelb.Balancer, tun *tunnel.Tunnel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lb, d.tun = lb, tun
}

// close ends it. It returns when no use is in progress.
func (d *dataPath) close() { d.open(nil, nil) }

// use calls f. It returns false without a data path: before the first claim, while the tunnel is not up, and during the stop.
func (d *dataPath) use(f func(lb *servicelb.Balancer, tun *tunnel.Tunnel)) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.lb == nil {
		return false
	}
	f(d.lb, d.tun)
	return true
}
