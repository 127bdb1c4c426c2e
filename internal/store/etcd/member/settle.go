package member

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/admin"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// settle makes a member that serves a full one, and records it. It tries until that is done: a learner first has to
// catch up with the others, and the API server may be away.
func (c Config) settle(ctx context.Context) error {
	said := ""
	for {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		id, err := c.settleOnce(ask)
		cancel()
		if err == nil {
			c.Log.Info("member serves", "member", c.Name, "id", id, "clients", c.url(c.ClientPort))
			return nil
		}
		if err.Error() != said && ctx.Err() == nil {
			c.Log.Info("member is not a full one yet", "member", c.Name, "err", err)
			said = err.Error()
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
	// A learner answers next to nothing: ask the others where there are any.
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

// correct promotes a learner and tells the others of a new address of this node.
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
			return fmt.Errorf("tell the others the new address %s: %w", want[0], err)
		}
	}
	return nil
}
