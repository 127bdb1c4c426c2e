package objectstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxTries bounds the attempts of a write that conflicts with concurrent ones.
const maxTries = 32

// errRaced reports that the keys of a transaction changed after they were read.
var errRaced = errors.New("the store changed meanwhile")

// retry calls write until it succeeds, fails with another error than errRaced, or has lost maxTries times.
func retry(what string, write func() error) error {
	for range maxTries {
		if err := write(); !errors.Is(err, errRaced) {
			return err
		}
	}
	return fmt.Errorf("%s: concurrent writers kept changing the store; try again", what)
}

// transaction gathers what one write needs.
type transaction struct {
	cmps []clientv3.Cmp
	ops  []clientv3.Op
}

func (s *Store) commit(ctx context.Context, t *transaction) error {
	ctx, cancel := client.Request(ctx)
	defer cancel()
	resp, err := s.cli.Txn(ctx).If(t.cmps...).Then(t.ops...).Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return errRaced
	}
	return nil
}
