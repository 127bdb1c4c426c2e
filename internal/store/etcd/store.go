// Package etcd is the store of a cluster: one connection (package client), the records of cluster and nodes (package
// records), the objects of clusters without Kubernetes (package objectstore), and a watch of all of them.
//
// Keys lie below /warren/<cluster>/: config, nodes/<name>, alive/<name>, blocks/<cidr>, objects/<kind>/..., alloc/....
// A Watch is a list followed by a watch. After a compaction, a broken stream or any doubt the caller starts again with a
// list. The package never decides what a record means for the data plane, and never deletes what it does not own.
package etcd

import (
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"github.com/warrennet/warren/internal/store/etcd/records"
)

// Config is what a connection needs.
type Config = client.Config

// Store is the store of one cluster. Its methods may be called from several goroutines.
type Store struct {
	*records.Store
	Objects *objectstore.Store
	cli     *client.Client
}

// New prepares a connection. It does not wait for the servers, and succeeds while they are unreachable.
func New(c Config) (*Store, error) {
	cli, err := client.New(c)
	if err != nil {
		return nil, err
	}
	return &Store{Store: records.New(cli), Objects: objectstore.New(cli), cli: cli}, nil
}

// SetEndpoints replaces the servers' URLs. Requests in progress continue.
func (s *Store) SetEndpoints(urls []string) { s.cli.SetEndpoints(urls...) }

// Endpoints are the servers' URLs in use.
func (s *Store) Endpoints() []string { return s.cli.Endpoints() }

// Close ends the connection.
func (s *Store) Close() error { return s.cli.Close() }
