package snapshot

import (
	"log/slog"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Connectivity is whether a store answers. It logs one line per change.
type Connectivity struct {
	name string
	log  *slog.Logger

	mu    sync.Mutex
	state api.Store
}

// State returns the state for the status.
func (c *Connectivity) State() api.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Connectivity) ok() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Connected {
		if c.state.Error != "" {
			c.log.Info("store reachable again", "name", c.name, "duration", time.Since(c.state.Since).Round(time.Second))
		}
		c.state = api.Store{Connected: true, Since: time.Now()}
	}
}

func (c *Connectivity) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Connected || c.state.Since.IsZero() {
		c.log.Warn("store unreachable; using last known state", "name", c.name, "err", err)
		c.state.Since = time.Now()
	}
	c.state.Connected = false
	c.state.Error = err.Error()
}
