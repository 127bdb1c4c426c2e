package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/admin"
	"github.com/warrennet/warren/internal/store/etcd/registry"
	"github.com/warrennet/warren/internal/store/etcd/server"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	tryTimeout = 10 * time.Second // of one attempt to start or to register
	retryAfter = 2 * time.Second
)

// errWait reports that another member must act first.
var errWait = errors.New("not yet")

// prepare decides how this member starts, and retries until it can.
func (c Config) prepare(ctx context.Context) (server.Config, error) {
	if err := c.restore(ctx); err != nil {
		return server.Config{}, err
	}
	if c.hasData() {
		return c.resume(ctx)
	}
	logged := ""
	for {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		sc, err := c.begin(try)
		cancel()
		var f *fatal
		if err == nil || errors.As(err, &f) {
			return sc, err
		}
		if err.Error() != logged {
			c.Log.Info("cannot start etcd member yet; retrying", "err", err)
			logged = err.Error()
		}
		select {
		case <-ctx.Done():
			return sc, ctx.Err()
		case <-time.After(retryAfter):
		}
	}
}

// fatal is an error that only an operator can fix.
type fatal struct{ error }

func (c Config) hasData() bool {
	logs, _ := filepath.Glob(filepath.Join(c.etcdDir(), "member", "wal", "*.wal"))
	return len(logs) > 0
}

// resume starts with the data on disk. It reads the ConfigMap only to detect that an operator removed this member.
func (c Config) resume(ctx context.Context) (server.Config, error) {
	try, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	rec, found, err := c.Registry.Read(try)
	switch {
	case err != nil:
		c.Log.Warn("cannot read the ConfigMap of etcd members; starting with the data on disk", "err", err)
	case found && rec.Members[c.Name] == registry.Member{}:
		return server.Config{},
			fmt.Errorf("ConfigMap %s does not name %s: this member was removed, or another one was restored from a backup. "+
				"Its data in %s belongs to the former cluster; move it away to let this node join as a new member", registry.Name, c.Name,
				c.etcdDir())
	}
	return c.serverConfig(), nil
}

// begin is one attempt to start without data.
func (c Config) begin(ctx context.Context) (server.Config, error) {
	rec, found, err := c.Registry.Read(ctx)
	if err != nil {
		return server.Config{}, err
	}
	if !found {
		won, err := c.Registry.Found(ctx, c.Name, c.entry())
		if err != nil {
			return server.Config{}, err
		}
		if !won {
			return server.Config{}, fmt.Errorf("another node founds the etcd cluster: %w", errWait)
		}
		c.Log.Info("founding a new etcd cluster with this member", "member", c.Name)
		if rec, _, err = c.Registry.Read(ctx); err != nil {
			return server.Config{}, err
		}
	}
	switch {
	case !rec.Running && rec.Founder == c.Name:
		return c.fresh(rec)
	case !rec.Running:
		return server.Config{}, fmt.Errorf("node %s founds the cluster and has not served yet "+
			"(if that node will not return, delete ConfigMap %s): %w", rec.Founder, registry.Name, errWait)
	}
	others := rec.ClientURLs(c.Name)
	if len(others) == 0 {
		return server.Config{}, &fatal{fmt.Errorf("this node was the only member and its data is not in %s: "+
			"bring the data back, restore a snapshot, "+
			"or delete ConfigMap %s to start with an empty etcd (the agents write their records again)", c.etcdDir(), registry.Name)}
	}
	return c.join(ctx, others)
}

// fresh starts a new cluster with this member alone. It removes the data of an incomplete attempt, which never served.
func (c Config) fresh(rec registry.Record) (server.Config, error) {
	if err := os.RemoveAll(c.etcdDir()); err != nil {
		return server.Config{}, err
	}
	sc := c.serverConfig()
	sc.InitialCluster, sc.Token = c.Name+"="+c.url(c.PeerPort), rec.Token
	return sc, nil
}

// join adds this node to the running cluster as a learner. A member with its name or address had another disk and is
// removed first.
func (c Config) join(ctx context.Context, others []string) (server.Config, error) {
	cli, err := c.dial(others)
	if err != nil {
		return server.Config{}, err
	}
	defer cli.Close()
	members, err := admin.Members(ctx, cli)
	if err != nil {
		return server.Config{}, fmt.Errorf("query %s: %w", strings.Join(others, ", "), err)
	}
	for _, m := range members {
		if m.Name == c.Name || slices.Contains(m.PeerURLs, c.url(c.PeerPort)) {
			c.Log.Info("removing the former etcd member of this node, whose data is lost", "member", m.Name, "identity", m.ID)
			if err := admin.Remove(ctx, cli, m); err != nil {
				return server.Config{}, err
			}
		}
	}
	added, err := cli.MemberAddAsLearner(ctx, []string{c.url(c.PeerPort)})
	if err != nil {
		return server.Config{}, fmt.Errorf("join as a learner: %w", err)
	}
	own := c.entry()
	own.ID = ""
	if err := c.Registry.Record(ctx, c.Name, own, false); err != nil {
		return server.Config{}, err
	}
	if err := os.RemoveAll(c.etcdDir()); err != nil { // without a write-ahead log it has no data
		return server.Config{}, err
	}
	sc := c.serverConfig()
	sc.Existing, sc.InitialCluster = true, initialCluster(added, c.Name)
	return sc, nil
}

// initialCluster is "name=URL,..." of all members. This member has no name in etcd yet; own is its name.
func initialCluster(r *clientv3.MemberAddResponse, own string) string {
	var parts []string
	for _, m := range r.Members {
		name := m.Name
		if m.ID == r.Member.ID {
			name = own
		}
		for _, u := range m.PeerURLs {
			parts = append(parts, name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}
