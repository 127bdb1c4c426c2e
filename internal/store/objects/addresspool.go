package objects

import (
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AddressPool is warren.dev/v1alpha1 AddressPool, a cluster-scoped object: addresses of the underlay for Services of type
// LoadBalancer. deploy/kubeadm/addresspool-crd.yaml is its schema.
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`
	Spec              AddressPoolSpec   `json:"spec"`
	Status            AddressPoolStatus `json:"status,omitzero"`
}

// AddressPoolStatus is written by the controller on Kubernetes.
type AddressPoolStatus struct {
	Used int64 `json:"used"`
	Free int64 `json:"free"`
}

// AddressPoolSpec has the addresses of an AddressPool and the Services that it serves.
type AddressPoolSpec struct {
	// Addresses are CIDRs (192.0.2.0/28) and ranges (192.0.2.10-192.0.2.20), of either family.
	Addresses []string `json:"addresses"`
	// AutoAssign is true by default; a pool without it serves only Services that name it or one of its addresses.
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// Namespaces of the Services that the pool serves; empty: all.
	Namespaces []string `json:"namespaces,omitempty"`
	// Priority decides among pools: higher first, then by name.
	Priority int32 `json:"priority,omitempty"`
}

// maxRanges bounds the list of one pool.
const maxRanges = 256

func validatePool(p *AddressPool) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	at := spec.Child("addresses")
	if len(p.Spec.Addresses) == 0 {
		errs = append(errs, field.Required(at, "at least one CIDR or range is required"))
	}
	if len(p.Spec.Addresses) > maxRanges {
		return append(errs, field.TooMany(at, len(p.Spec.Addresses), maxRanges))
	}
	ranges := make([]model.AddressRange, len(p.Spec.Addresses))
	for i, s := range p.Spec.Addresses {
		r, err := lbpool.ParseRange(s)
		if err != nil {
			errs = append(errs, field.Invalid(at.Index(i), s, err.Error()))
			continue
		}
		ranges[i] = r
		for j, o := range ranges[:i] {
			if o.First.IsValid() && o.Overlaps(r) {
				errs = append(errs, field.Invalid(at.Index(i), s, "overlaps "+p.Spec.Addresses[j]))
			}
		}
	}
	seen := map[string]bool{}
	for i, n := range p.Spec.Namespaces {
		errs = invalid(errs, spec.Child("namespaces").Index(i), n, validation.IsDNS1123Label(n))
		if seen[n] {
			errs = append(errs, field.Duplicate(spec.Child("namespaces").Index(i), n))
		}
		seen[n] = true
	}
	return errs
}

// Pool converts an AddressPool. Ranges that do not parse are left out.
func Pool(p *AddressPool) model.AddressPool {
	out := model.AddressPool{Name: p.Name, AutoAssign: p.Spec.AutoAssign == nil || *p.Spec.AutoAssign,
		Namespaces: p.Spec.Namespaces, Priority: int(p.Spec.Priority)}
	for _, s := range p.Spec.Addresses {
		if r, err := lbpool.ParseRange(s); err == nil {
			out.Ranges = append(out.Ranges, r)
		}
	}
	return out
}
