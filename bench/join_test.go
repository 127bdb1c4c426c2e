package main

import (
	"testing"

	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
)

func TestJoinAll_EmptyCluster_EachNodeHasItsOwnBlocks(t *testing.T) {
	r, err := joinAll(t.Context(), etcdtest.Start(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	if r.blocks != 6 || r.requests == 0 {
		t.Errorf("%d blocks, %d requests, expected 6 blocks (3 nodes, IPv4 and IPv6) and at least one request", r.blocks, r.requests)
	}
}
