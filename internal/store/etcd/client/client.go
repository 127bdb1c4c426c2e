// Package client connects to etcd v3 on behalf of one cluster: its keys lie below /warren/<cluster>/.
//
// It owns the connection and the time limit of a request. It neither reads nor writes a key itself: packages records and
// objectstore do.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Config is what a connection needs.
type Config struct {
	Endpoints []string // URLs, https:// where CAFile is set
	CAFile    string   // PEM; the authorities that may sign the servers
	CertFile  string   // PEM; this node's client certificate
	KeyFile   string   // PEM; its key
	Cluster   string   // name of the cluster: the prefix is /warren/<cluster>/
	Username  string   // optional, for an etcd with users
	Password  string
}

// Client is a connection and the prefix of the cluster's keys. Its methods may be called from several goroutines.
type Client struct {
	*clientv3.Client
	Prefix string // ends with a slash
}

// Root is the prefix of the keys of all clusters: "<cluster>/..." follows.
const Root = "/warren/"

// requestTimeout bounds one request; a watch has no bound.
const requestTimeout = 5 * time.Second

// New prepares a connection. It does not wait for the servers, and succeeds while they are unreachable.
func New(c Config) (*Client, error) {
	cli, err := Dial(c)
	if err != nil {
		return nil, err
	}
	return &Client{Client: cli, Prefix: Root + c.Cluster + "/"}, nil
}

// Key returns the key of a path below the prefix. A last part of "" makes it a prefix that ends with a slash.
func (c *Client) Key(parts ...string) string { return c.Prefix + strings.Join(parts, "/") }

// Request bounds one call by requestTimeout.
func Request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// Dial prepares an etcd client without a prefix, for commands that administrate the servers.
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
