package snapshot

import (
	"context"
	"time"
)

// Bounds of Backoff: a store that is reachable again is used within maxBackoff.
const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Backoff is the pause between attempts to use a store. It doubles up to maxBackoff. Its zero value is ready for use.
type Backoff struct{ d time.Duration }

// Wait sleeps until the pause is over, ctx ends or wake is received.
func (b *Backoff) Wait(ctx context.Context, wake <-chan struct{}) {
	b.d = min(max(2*b.d, minBackoff), maxBackoff)
	select {
	case <-ctx.Done():
	case <-wake:
	case <-time.After(b.d):
	}
}

// Reset starts with the shortest pause again.
func (b *Backoff) Reset() { b.d = 0 }
