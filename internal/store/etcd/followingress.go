package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/warrennet/warren/internal/model"
)

const (
	// silent is the age of the last answer from which the servers count as unreachable: two requests were not answered.
	silent     = 2*progress + 2*time.Second
	watchAgain = 200 * time.Millisecond
)

// errSilent is reported while a watch receives no answers.
var errSilent = errors.New("etcd does not answer")

// FollowIngress calls WatchIngress again and again until ctx ends. It calls state with an error while the servers do not answer, and with
// nil when they do.
func (s *Store) FollowIngress(ctx context.Context, on func(*model.IngressObjects), state func(error)) {
	for ctx.Err() == nil {
		err := s.followIngressOnce(ctx, on, state)
		if ctx.Err() != nil {
			return
		}
		state(fmt.Errorf("etcd: %w", err))
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

// followIngressOnce is one watch. It ends when the servers have been silent.
func (s *Store) followIngressOnce(ctx context.Context, on func(*model.IngressObjects), state func(error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if time.Since(time.Unix(0, last.Load())) > silent {
					cancel(errSilent)
					return
				}
			}
		}
	}()
	err := s.WatchIngress(ctx, on, func() {
		last.Store(time.Now().UnixNano())
		state(nil)
	})
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	cancel(nil)
	<-done
	return err
}
