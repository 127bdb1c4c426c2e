// Package records stores what the nodes of a cluster agree on: the cluster's configuration, the record of each node, the
// owners of blocks, the leased key alive/<node> and the Pods that agents publish in clusters without Kubernetes.
//
// A record has a layout version. A newer one is reported and never overwritten. The package decides who owns a node name
// or a block; it never decides what a record means for the data plane, and never deletes what another machine owns.
package records

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Layout versions of the records. A reader refuses a newer one; a writer always writes its own.
const (
	clusterLayout = 1
	nodeLayout    = 1
	blockLayout   = 1
)

// ErrNameTaken reports that another machine that is alive has this node's name.
var ErrNameTaken = errors.New("node name is in use")

// Store reads and writes the records. Its methods may be called from several goroutines.
type Store struct{ cli *client.Client }

// New makes a Store of a connection, which the caller closes.
func New(cli *client.Client) *Store { return &Store{cli} }

// EnsureCluster writes the cluster's configuration if there is none and returns the one that is stored. The caller
// compares it with its own.
func (s *Store) EnsureCluster(ctx context.Context, want model.Cluster) (model.Cluster, error) {
	raw, err := model.Encode(clusterLayout, want)
	if err != nil {
		return model.Cluster{}, err
	}
	ctx, cancel := client.Request(ctx)
	defer cancel()
	key := s.cli.Key("config")
	resp, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(raw))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return model.Cluster{}, fmt.Errorf("read or create %s: %w", key, err)
	}
	if resp.Succeeded {
		return want, nil
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) != 1 {
		return model.Cluster{}, fmt.Errorf("read %s: no value", key)
	}
	have, err := DecodeCluster(kvs[0].Value)
	if err != nil {
		return model.Cluster{}, fmt.Errorf("read %s: %w", key, err)
	}
	return have, nil
}

// DecodeCluster reads and validates the value of the key config. It returns the zero Cluster with an error.
func DecodeCluster(raw []byte) (c model.Cluster, err error) {
	if err := model.Decode(raw, clusterLayout, &c); err != nil {
		return model.Cluster{}, err
	}
	if err := validateCluster(c); err != nil {
		return model.Cluster{}, err
	}
	return c, nil
}

// domainName is RFC 1123's label with dots allowed, as the setting domain.
var domainName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// validateCluster reports every field of a cluster's configuration that no node can use.
func validateCluster(c model.Cluster) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	n := len(c.PodCIDRs)
	if n == 0 || n > 2 || n == 2 && model.FamilyOf(c.PodCIDRs[0].Addr()) == model.FamilyOf(c.PodCIDRs[1].Addr()) {
		bad("podCIDRs: %v: expected one range, or one per family", c.PodCIDRs)
	}
	for _, p := range c.PodCIDRs {
		f := model.FamilyOf(p.Addr())
		switch bits := c.Bits(p); {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			bad("podCIDRs: %s: expected an address range without host bits", p)
		case bits < p.Bits() || bits > model.LongestBlock[f]:
			bad("blockBits: %d for the %s range %s: expected %d to %d", bits, f, p, p.Bits(), model.LongestBlock[f])
		}
	}
	if c.Port == 0 {
		bad("port: 0: expected 1 to 65535")
	}
	if !domainName.MatchString(c.Domain) {
		bad("domain: %q: expected a DNS name (RFC 1123)", c.Domain)
	}
	return errors.Join(errs...)
}
