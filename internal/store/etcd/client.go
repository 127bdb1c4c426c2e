// Package etcd is warren's store: nodes, blocks and cluster configuration under /warren/<cluster>/ in an etcd v3.
//
// It owns the etcd connection and the one leased key of this node (alive/<name>). A Watch is a list followed by a
// watch; after a compaction, a broken stream or anything doubtful it lists again and hands on a whole new snapshot.
// Records are written with a layout version and a newer one is never overwritten. The package never decides what a
// record means for the data plane; and it never deletes what it does not own.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Config says how to reach the store.
type Config struct {
	Endpoints []string // URLs, https:// where CAFile is set
	CAFile    string   // PEM; the authorities that may sign the servers
	CertFile  string   // PEM; this node's client certificate
	KeyFile   string   // PEM; its key
	Cluster   string   // name of the cluster: the prefix is /warren/<cluster>/
	Username  string   // optional, for an etcd with users
	Password  string
}

// Store is a connection to the cluster's records. Its methods may be called from several goroutines.
type Store struct {
	cli    *clientv3.Client
	prefix string
}

// requestTimeout bounds one request; a watch has no bound.
const requestTimeout = 5 * time.Second

// New prepares a connection; it does not wait for the servers and succeeds while they are away.
func New(c Config) (*Store, error) {
	cli, err := Dial(c)
	if err != nil {
		return nil, err
	}
	return &Store{cli: cli, prefix: "/warren/" + c.Cluster + "/"}, nil
}

// Dial prepares a plain etcd client, for those who look after the servers and not the records.
func Dial(c Config) (*clientv3.Client, error) {
	tc, err := c.tls()
	if err != nil {
		return nil, err
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  tc,
		Username:             c.Username,
		Password:             c.Password,
		DialTimeout:          requestTimeout,
		DialKeepAliveTime:    3 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream:  true,
		Logger:               zap.NewNop(), // the agent reports what a user can act on
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd %s: %w", strings.Join(c.Endpoints, ","), err)
	}
	return cli, nil
}

func (c Config) tls() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" && c.KeyFile == "" {
		return nil, nil
	}
	info := transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile}
	tc, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("etcd TLS files (ca %q, cert %q, key %q): %w", c.CAFile, c.CertFile, c.KeyFile, err)
	}
	return tc, nil
}

// SetEndpoints replaces the servers' URLs; requests under way go on.
func (s *Store) SetEndpoints(urls []string) { s.cli.SetEndpoints(urls...) }

// Close ends the connection.
func (s *Store) Close() error { return s.cli.Close() }

func (s *Store) key(parts ...string) string { return s.prefix + strings.Join(parts, "/") }

// request bounds one call by requestTimeout.
func request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// ErrNameTaken says that another living machine holds this node's name.
var ErrNameTaken = errors.New("node name is in use")
