package member

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/admin"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// settle promotes a learner to a voting member and records it in the ConfigMap. It retries until both are done: a learner
// has to catch up with the others first, and the API server may be unreachable.
func (c Config) settle(ctx context.Context) error {
	logged := ""
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		id, err := c.settleOnce(try)
		cancel()
		if err == nil {
			c.Log.Info("etcd member is a voting member and serves clients", "member", c.Name, "identity", id, "url", c.url(c.ClientPort))
			return nil
		}
		if err.Error() != logged && ctx.Err() == nil {
			c.Log.Info("etcd member is not registered as a voting member yet; retrying", "member", c.Name, "err", err)
			logged = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter / 2):
		}
	}
}

func (c Config) settleOnce(ctx context.Context) (id string, err error) {
	rec, found, err := c.Registry.Read(ctx)
	if err != nil {
		return "", err
	}
	// A learner serves almost no request: use the other members if there are any.
	endpoints := rec.ClientURLs(c.Name)
	if len(endpoints) == 0 {
		endpoints = []string{c.url(c.ClientPort)}
	}
	cli, err := c.dial(endpoints)
	if err != nil {
		return "", err
	}
	defer cli.Close()
	members, err := admin.Members(ctx, cli)
	if err != nil {
		return "", err
	}
	m, err := admin.Find(members, c.Name)
	if err != nil {
		return "", err
	}
	if err := c.correct(ctx, cli, m); err != nil {
		return "", err
	}
	own := c.entry()
	own.ID = m.ID
	if !found {
		if _, err := c.Registry.Found(ctx, c.Name, own); err != nil {
			return "", err
		}
	}
	return m.ID, c.Registry.Record(ctx, c.Name, own, true)
}

// correct promotes a learner, and updates the address of this member if the node has a new one.
func (c Config) correct(ctx context.Context, cli *clientv3.Client, m admin.Member) error {
	id, err := admin.ParseID(m.ID)
	if err != nil {
		return err
	}
	if m.Learner {
		if _, err := cli.MemberPromote(ctx, id); err != nil {
			return fmt.Errorf("promote: %w", err)
		}
	}
	if want := []string{c.url(c.PeerPort)}; !slices.Equal(m.PeerURLs, want) {
		if _, err := cli.MemberUpdate(ctx, id, want); err != nil {
			return fmt.Errorf("update the peer URL to %s: %w", want[0], err)
		}
	}
	return nil
}
