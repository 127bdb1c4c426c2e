package records

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// rotationLayout is the layout version of the key rotation.
const rotationLayout = 1

// maxRotationID bounds the identifier of a request.
const maxRotationID = 64

// Rotation is a request to all nodes to replace their WireGuard keys.
type Rotation struct {
	ID    string `json:"id"`
	Force bool   `json:"force,omitempty"` // also nodes with external peers, which lose their tunnel
}

// DecodeRotation reads the request.
func DecodeRotation(raw []byte) (Rotation, error) {
	var r Rotation
	if err := model.Decode(raw, rotationLayout, &r); err != nil {
		return Rotation{}, err
	}
	if r.ID == "" || len(r.ID) > maxRotationID {
		return Rotation{}, fmt.Errorf("id %q: expected 1 to %d characters", r.ID, maxRotationID)
	}
	return r, nil
}

// RotateKeys requests all nodes to replace their WireGuard keys, one after the other. It gives the request an identifier.
func (s *Store) RotateKeys(ctx context.Context, r Rotation) error {
	r.ID = rand.Text()
	raw, err := model.Encode(rotationLayout, r)
	if err != nil {
		return err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	if _, err := s.cli.Put(ctx, s.cli.Key("rotation"), string(raw)); err != nil {
		return fmt.Errorf("request the replacement of all keys: %w", err)
	}
	return nil
}

// exclusiveTTL is the time in seconds after which a node that has failed no longer holds the lock of Exclusive.
const exclusiveTTL = 10

// Exclusive calls f while no other node of the cluster is in a call of it. It waits for them. The context of f ends when the
// lease is lost.
func (s *Store) Exclusive(ctx context.Context, f func(context.Context) error) error {
	session, err := concurrency.NewSession(s.cli.Client, concurrency.WithTTL(exclusiveTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("lease for the lock of key replacements: %w", err)
	}
	defer session.Close()
	lock := concurrency.NewMutex(session, s.cli.Key("rotating"))
	if err := lock.Lock(ctx); err != nil {
		return fmt.Errorf("wait for the lock of key replacements: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return f(ctx)
}
