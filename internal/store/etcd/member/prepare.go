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
	askTimeout = 10 * time.Second // for one try of anything asked before this member runs
	retryAfter = 2 * time.Second
)

// errWait says that others must do something first.
var errWait = errors.New("not yet")

// prepare decides how this member starts. It returns when that is certain.
func (c Config) prepare(ctx context.Context) (server.Config, error) {
	if err := c.restore(ctx); err != nil {
		return server.Config{}, err
	}
	if c.hasData() {
		return c.resume(ctx)
	}
	said := ""
	for {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		sc, err := c.begin(ask)
		cancel()
		var f *fatal
		if err == nil || errors.As(err, &f) {
			return sc, err
		}
		if err.Error() != said {
			c.Log.Info("this member cannot start yet; it tries on", "err", err)
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return sc, ctx.Err()
		case <-time.After(retryAfter):
		}
	}
}

// fatal is an error that only a person can mend.
type fatal struct{ error }

func (c Config) hasData() bool {
	logs, _ := filepath.Glob(filepath.Join(c.etcdDir(), "member", "wal", "*.wal"))
	return len(logs) > 0
}

// resume starts with the data on disk. The API server is asked only for what a person did meanwhile.
func (c Config) resume(ctx context.Context) (server.Config, error) {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rec, found, err := c.Registry.Read(ask)
	switch {
	case err != nil:
		c.Log.Warn("starting with the data on disk; the record of members cannot be read", "err", err)
	case found && rec.Members[c.Name] == registry.Member{}:
		return server.Config{}, fmt.Errorf("ConfigMap %s does not name %s: this member was removed, or another one was restored from a backup. "+
			"Its data in %s belongs to the former cluster; move it away to let this node join as a new member", registry.Name, c.Name, c.etcdDir())
	}
	return c.serverConfig(), nil
}

// begin is one try to start without data.
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
			return server.Config{}, fmt.Errorf("another node founds the cluster: %w", errWait)
		}
		c.Log.Info("this is the first member of a new cluster", "member", c.Name)
		if rec, _, err = c.Registry.Read(ctx); err != nil {
			return server.Config{}, err
		}
	}
	switch {
	case !rec.Running && rec.Founder == c.Name:
		return c.fresh(rec)
	case !rec.Running:
		return server.Config{}, fmt.Errorf("node %s founds the cluster and has not served yet "+
			"(if that node is gone for good, delete ConfigMap %s): %w", rec.Founder, registry.Name, errWait)
	}
	others := rec.ClientURLs(c.Name)
	if len(others) == 0 {
		return server.Config{}, &fatal{fmt.Errorf("this node was the only member and its data is not in %s: bring that back, restore a snapshot, "+
			"or delete ConfigMap %s to begin with an empty etcd (the agents write again what they hold)", c.etcdDir(), registry.Name)}
	}
	return c.join(ctx, others)
}

// fresh starts a new cluster of this member alone. What a first try left half made goes: it has never served.
func (c Config) fresh(rec registry.Record) (server.Config, error) {
	if err := os.RemoveAll(c.etcdDir()); err != nil {
		return server.Config{}, err
	}
	sc := c.serverConfig()
	sc.InitialCluster, sc.Token = c.Name+"="+c.url(c.PeerPort), rec.Token
	return sc, nil
}

// join makes this node a learner of the running cluster. A former member of its name had another disk: it goes first.
func (c Config) join(ctx context.Context, others []string) (server.Config, error) {
	cli, err := c.dial(others)
	if err != nil {
		return server.Config{}, err
	}
	defer cli.Close()
	members, err := admin.Members(ctx, cli)
	if err != nil {
		return server.Config{}, fmt.Errorf("ask %s: %w", strings.Join(others, ", "), err)
	}
	for _, m := range members {
		if m.Name == c.Name || slices.Contains(m.PeerURLs, c.url(c.PeerPort)) {
			c.Log.Info("removing the member that was on this node before: its data is gone", "id", m.ID)
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
	if err := os.RemoveAll(c.etcdDir()); err != nil { // without a log of etcd there is nothing of worth
		return server.Config{}, err
	}
	sc := c.serverConfig()
	sc.Existing, sc.InitialCluster = true, initialCluster(added, c.Name)
	return sc, nil
}

// initialCluster is "name=URL,..." of all members, this one, which has no name in etcd yet, by its own.
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
