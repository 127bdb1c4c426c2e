package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// AnswerLimit is the age of the last answer from which etcd counts as unreachable: two TTLs of the lease of a node's liveness key. A
// connection that is open, or that the client tries to open, is no answer.
const AnswerLimit = 20 * time.Second

// Connectivity is whether a store answers. It logs one line per change.
type Connectivity struct {
	name  string
	log   *slog.Logger
	limit time.Duration    // age of the last answer of a store that is reachable; 0: it reports failures itself
	now   func() time.Time // nil: time.Now

	mu       sync.Mutex
	state    api.Store
	answered time.Time // time of the last answer
	silent   bool      // unreachable by the age of the last answer
}

// State returns the state for the status.
func (c *Connectivity) State() api.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.check()
	return c.state
}

// watchAge notices that a store answers no longer, until ctx ends.
func (c *Connectivity) watchAge(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.mu.Lock()
			c.check()
			c.mu.Unlock()
		}
	}
}

// check compares the age of the last answer with the limit. The caller holds mu.
func (c *Connectivity) check() {
	silent := c.clock().Sub(c.answered)
	if c.limit == 0 || !c.state.Connected && !c.silent || silent < c.limit {
		return
	}
	err := fmt.Errorf("no answer for %s", silent.Round(time.Second))
	if c.state.Connected {
		c.log.Warn("store unreachable; using last known state", "name", c.name, "err", err)
	}
	c.state, c.silent = api.Store{Since: c.answered, Error: err.Error()}, true
}

func (c *Connectivity) clock() time.Time {
	if c.now == nil {
		return time.Now()
	}
	return c.now()
}

// ok notes an answer.
func (c *Connectivity) ok() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	c.answered, c.silent = now, false
	if !c.state.Connected {
		if c.state.Error != "" {
			c.log.Info("store reachable again", "name", c.name, "duration", now.Sub(c.state.Since).Round(time.Second))
		}
		c.state = api.Store{Connected: true, Since: now}
	}
}

func (c *Connectivity) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Connected || c.state.Since.IsZero() {
		c.log.Warn("store unreachable; using last known state", "name", c.name, "err", err)
		c.state.Since = c.clock()
	}
	c.state.Connected, c.silent = false, false
	c.state.Error = err.Error()
}
