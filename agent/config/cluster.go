package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// MismatchError has the settings of this node that differ from the cluster's.
type MismatchError struct {
	record string // the cluster's configuration in etcd
	diffs  []string
}

func (e *MismatchError) Error() string {
	return "this node's configuration differs from the cluster's (etcd record " + e.record + "): " + strings.Join(e.diffs, "; ") +
		". Change this node's settings, or leave them unset to use the cluster's"
}

// Agree compares the settings that are set on this node with those that the cluster was created with. Settings that are not set
// here are taken from the cluster.
func (c *Config) Agree(have model.Cluster) error {
	e := MismatchError{record: "/warren/" + c.Etcd.Cluster + "/config"}
	check := func(key string, same bool, mine, theirs any) {
		if c.Given(key) && !same {
			e.diffs = append(e.diffs, fmt.Sprintf("%s: %v here, %v in the cluster", key, mine, theirs))
		}
	}
	w := c.Cluster
	check("podCIDRs", slices.Equal(w.PodCIDRs, have.PodCIDRs), w.PodCIDRs, have.PodCIDRs)
	check("blockBits.ipv4", w.BlockBits[0] == have.BlockBits[0], w.BlockBits[0], have.BlockBits[0])
	check("blockBits.ipv6", w.BlockBits[1] == have.BlockBits[1], w.BlockBits[1], have.BlockBits[1])
	check("domain", w.Domain == have.Domain, w.Domain, have.Domain)
	if len(e.diffs) > 0 {
		return &e
	}
	return nil
}
