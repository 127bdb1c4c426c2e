package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Record is what the node keeps of one Pod interface, from its reservation to its release.
type Record struct {
	api.Attachment
	Network      string            `json:"network,omitempty"` // name of the CNI network configuration
	Netns        string            `json:"netns,omitempty"`
	PodNamespace string            `json:"podNamespace,omitempty"`
	PodName      string            `json:"podName,omitempty"`
	PodUID       string            `json:"podUID,omitempty"`
	Addresses    []netip.Addr      `json:"addresses"`           // at most one per family, the cluster's order
	Requested    []netip.Addr      `json:"requested,omitempty"` // those of them that were asked for
	HostIfName   string            `json:"hostIfName"`
	MAC          string            `json:"mac,omitempty"` // of the Pod's end
	Labels       map[string]string `json:"labels,omitempty"`
	DNS          api.DNS           `json:"dns,omitzero"`
	PortMappings []api.PortMapping `json:"portMappings,omitempty"`
	Probe        *api.Probe        `json:"probe,omitempty"` // of readiness; replaced, never written to
	Created      time.Time         `json:"created,omitzero"`
	// Committed is true once the interface stands. A record without it belongs to an ADD that is under way, or was.
	Committed bool `json:"committed,omitempty"`
	// Adopted says that the record was made from an interface that was found without one.
	Adopted bool `json:"adopted,omitempty"`
}

// Name writes an attachment for people.
func Name(a api.Attachment) string {
	return fmt.Sprintf("container %s, interface %s", a.ContainerID, a.IfName)
}

// check refuses a record that nobody could release or that no packet could reach.
func (r Record) check() error {
	if r.ContainerID == "" || r.IfName == "" {
		return errors.New("a record needs a container id and an interface name")
	}
	if len(r.Addresses) > 2 {
		return fmt.Errorf("record of %s has %d addresses, at most one per family is allowed", Name(r.Attachment), len(r.Addresses))
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("record of %s: %q is no plain address", Name(r.Attachment), a)
		}
	}
	if len(r.Addresses) == 2 && r.Addresses[0].Is4() == r.Addresses[1].Is4() {
		return fmt.Errorf("record of %s has two addresses of one family", Name(r.Attachment))
	}
	return nil
}

func (r Record) clone() Record {
	r.Addresses, r.Requested = slices.Clone(r.Addresses), slices.Clone(r.Requested)
	r.Labels = maps.Clone(r.Labels)
	r.DNS = api.DNS{Servers: slices.Clone(r.DNS.Servers), Searches: slices.Clone(r.DNS.Searches), Options: slices.Clone(r.DNS.Options)}
	return r
}
