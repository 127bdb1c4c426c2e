package agent

import (
	"log/slog"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// storeHealth remembers whether the store answers, for status and for one log line per change.
type storeHealth struct {
	mu    sync.Mutex
	state api.Store
}

func (h *storeHealth) ok(log *slog.Logger, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.state.Connected {
		if h.state.Error != "" {
			log.Info(what+" answers again", "away", time.Since(h.state.Since).Round(time.Second))
		}
		h.state = api.Store{Connected: true, Since: time.Now()}
	}
}

func (h *storeHealth) failed(log *slog.Logger, what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Connected || h.state.Since.IsZero() {
		log.Warn(what+" is away; going on with what is known", "err", err)
		h.state.Since = time.Now()
	}
	h.state.Connected = false
	h.state.Error = err.Error()
}

func (h *storeHealth) get() api.Store {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}
