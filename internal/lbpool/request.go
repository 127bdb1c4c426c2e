package lbpool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Class is the loadBalancerClass that names warren; the default class is warren's too.
const Class = "warren.dev/lb"

// Annotations of Services.
const (
	RequestAnnotation = "warren.dev/loadbalancer-ips" // addresses, one per family, separated by commas
	PoolAnnotation    = "warren.dev/address-pool"     // name of the pool
	ShareAnnotation   = "warren.dev/allow-shared-ip"  // Services with the same key may share an address
	// ShareWithAnnotation lists the namespaces whose Services may share an address of this one, separated by commas; "*" for
	// all. Services of different namespaces share an address only if both name the other's namespace.
	ShareWithAnnotation = "warren.dev/allow-shared-ip-with"
)

// Ours reports whether warren gives a Service its load balancer addresses.
func Ours(s *model.Service) bool {
	return s.Type == model.LoadBalancer && (s.LBClass == "" || s.LBClass == Class)
}

// Port is a port that a Service uses on its addresses.
type Port struct {
	Protocol model.Protocol `json:"protocol"`
	Port     uint16         `json:"port"`
}

// Use records that a Service holds an address, with the properties that decide which Services may share it.
type Use struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	UID       string            `json:"uid"`
	Key       string            `json:"key,omitempty"`  // of ShareAnnotation
	With      []string          `json:"with,omitempty"` // of ShareWithAnnotation
	Ports     []Port            `json:"ports,omitempty"`
	Local     bool              `json:"local,omitempty"` // externalTrafficPolicy Local
	Selector  map[string]string `json:"selector,omitempty"`
}

// Taken lists the Services that hold each address.
type Taken map[netip.Addr][]Use

// Request is a Service's request for load balancer addresses.
type Request struct {
	Use
	Families []model.Family // of its ClusterIPs, the preferred one first
	Named    []netip.Addr   // addresses it names, at most one per family
	Pool     string         // the pool it names, "" for any
	Has      []netip.Addr   // the addresses it holds now
}

// RequestOf reads the request of a Service from its spec and annotations. The error names the invalid value; a Service
// with an invalid request gets no address.
func RequestOf(s *model.Service) (Request, error) {
	r := Request{Use: Use{Namespace: s.Namespace, Name: s.Name, UID: s.UID, Key: s.Annotations[ShareAnnotation],
		Local: s.ExternalPolicy == model.PolicyLocal, Selector: s.Selector}, Pool: s.Annotations[PoolAnnotation], Has: s.LBAddresses}
	for _, n := range strings.Split(s.Annotations[ShareWithAnnotation], ",") {
		if n = strings.TrimSpace(n); n != "" {
			r.With = append(r.With, n)
		}
	}
	for _, p := range s.Ports {
		r.Ports = append(r.Ports, Port{p.Protocol, p.Port})
	}
	for _, a := range s.ClusterIPs {
		r.Families = append(r.Families, model.FamilyOf(a))
	}
	if s.LBRequested.IsValid() {
		r.Named = append(r.Named, s.LBRequested)
	}
	if list, ok := s.Annotations[RequestAnnotation]; ok {
		if s.LBRequested.IsValid() {
			return r, fmt.Errorf("spec.loadBalancerIP and the annotation %s exclude each other", RequestAnnotation)
		}
		for _, f := range strings.Split(list, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(f))
			if err != nil {
				return r, fmt.Errorf("annotation %s: %q is not an IP address", RequestAnnotation, f)
			}
			r.Named = append(r.Named, a.Unmap())
		}
	}
	for i, a := range r.Named {
		if slices.ContainsFunc(r.Named[:i], func(b netip.Addr) bool { return model.FamilyOf(a) == model.FamilyOf(b) }) {
			return r, fmt.Errorf("annotation %s: more than one address of a family", RequestAnnotation)
		}
		if !slices.Contains(r.Families, model.FamilyOf(a)) {
			return r, fmt.Errorf("%s is requested, but the Service has no %s address", a, model.FamilyOf(a))
		}
	}
	return r, nil
}
