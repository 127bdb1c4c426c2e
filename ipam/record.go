package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// Record describes one attachment, from its reservation to its release.
type Record struct {
	api.Attachment
	Network      string            `json:"network,omitempty"` // name of the CNI network configuration
	Netns        string            `json:"netns,omitempty"`
	PodNamespace string            `json:"podNamespace,omitempty"`
	PodName      string            `json:"podName,omitempty"`
	PodUID       string            `json:"podUID,omitempty"`
	Addresses    []netip.Addr      `json:"addresses"`           // at most one per family, in the cluster's order
	Requested    []netip.Addr      `json:"requested,omitempty"` // those of Addresses that the runtime requested
	HostIfName   string            `json:"hostIfName"`
	MAC          string            `json:"mac,omitempty"` // of the Pod's end
	Labels       map[string]string `json:"labels,omitempty"`
	DNS          api.DNS           `json:"dns,omitzero"`
	PortMappings []api.PortMapping `json:"portMappings,omitempty"`
	Probe        *api.Probe        `json:"probe,omitempty"` // readiness probe; replaced, never written to
	Created      time.Time         `json:"created,omitzero"`
	// Committed is true once the interface is configured. Before, the record is the reservation of an ADD that is in
	// progress or was interrupted.
	Committed bool `json:"committed,omitempty"`
	// Adopted is true for a record that was made from an existing interface without one.
	Adopted bool `json:"adopted,omitempty"`
}

// Name returns the text for an attachment in log messages and errors.
func Name(a api.Attachment) string {
	return fmt.Sprintf("container %s, interface %s", a.ContainerID, a.IfName)
}

// check refuses a record without the key of a release, or with addresses that no Pod can have.
func (r Record) check() error {
	if r.ContainerID == "" || r.IfName == "" {
		return errors.New("a record needs a container id and an interface name")
	}
	if len(r.Addresses) > 2 {
		return fmt.Errorf("record of %s has %d addresses, expected at most one per family", Name(r.Attachment), len(r.Addresses))
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("record of %s: address %q: expected an IPv4 or IPv6 address without zone", Name(r.Attachment), a)
		}
	}
	if len(r.Addresses) == 2 && model.FamilyOf(r.Addresses[0]) == model.FamilyOf(r.Addresses[1]) {
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
