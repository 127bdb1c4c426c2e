// Package admin administrates the servers of an etcd cluster: members, snapshots, restore. It owns the files that it writes,
// and never reads a record of warren.
package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Client is etcd's own client, under a name that commands may use: they do not import etcd.
type Client = clientv3.Client

// Member is one member of the etcd cluster, as etcd reports it.
type Member struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"` // empty: it was added and has never started
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`
}

// timeout bounds one request, which may need the agreement of a quorum.
const timeout = 10 * time.Second

// Answers returns an error if none of the client's servers answers. A server that answers may still lack a quorum.
func Answers(ctx context.Context, cli *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	endpoints := cli.Endpoints()
	errs := make(chan error, len(endpoints))
	for _, e := range endpoints {
		go func() { _, err := cli.Status(ctx, e); errs <- err }()
	}
	var all []error
	for range endpoints {
		err := <-errs
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return fmt.Errorf("no server of etcd answers at %s: %w", strings.Join(endpoints, ", "), errors.Join(all...))
}

// agreed explains the timeout of a request that needs a quorum.
func agreed(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no quorum within %s; are most members running?: %w", timeout, err)
	}
	return err
}

// Members lists the members. That needs a quorum.
func Members(ctx context.Context, cli *clientv3.Client) ([]Member, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := cli.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the members of etcd: %w", agreed(err))
	}
	out := make([]Member, 0, len(r.Members))
	for _, m := range r.Members {
		out = append(out, member(m))
	}
	return out, nil
}

func member(m *etcdserverpb.Member) Member {
	return Member{ID: formatID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner}
}

// formatID writes a member's ID as etcd's own tools do.
func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

// ParseID parses the form that formatID writes.
func ParseID(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }

// Find returns the member of that name or ID.
func Find(members []Member, nameOrID string) (Member, error) {
	for _, m := range members {
		if m.Name == nameOrID || m.ID == nameOrID {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("etcd has no member of the name or ID %q", nameOrID)
}

// Remove removes a member from the cluster. etcd refuses if the remaining members would have no quorum.
func Remove(ctx context.Context, cli *clientv3.Client, m Member) error {
	id, err := ParseID(m.ID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := cli.MemberRemove(ctx, id); err != nil {
		return fmt.Errorf("remove etcd member %s (%s): %w", m.Name, m.ID, agreed(err))
	}
	return nil
}
