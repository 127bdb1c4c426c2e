package objectstore

import (
	"context"
	"fmt"
	"github.com/warrennet/warren/internal/netx"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// keepAddresses keeps the addresses that the Service has, as the API server does, unless the manifest names others or the
// type needs none.
func keepAddresses(svc, before *corev1.Service) {
	if len(svc.Spec.ClusterIPs) == 0 && objects.WantsClusterIP(svc) && objects.WantsClusterIP(before) {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = before.Spec.ClusterIP, slices.Clone(before.Spec.ClusterIPs)
	}
}

// ServiceCIDRs returns the Service ranges, in the order in which they offer families.
func (s *Store) ServiceCIDRs(ctx context.Context) ([]netip.Prefix, error) {
	k, err := objects.KindNamed("ServiceCIDR")
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx, k, "")
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, o := range list {
		for _, c := range o.(*networkingv1.ServiceCIDR).Spec.CIDRs {
			if p, err := netip.ParsePrefix(c); err == nil {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// clusterIPs completes the Service's cluster addresses: requested ones are checked, missing families get a free one.
func (s *Store) clusterIPs(ctx context.Context, svc *corev1.Service, had []string) error {
	ranges, err := s.ServiceCIDRs(ctx)
	if err != nil {
		return err
	}
	var offered []corev1.IPFamily
	for _, r := range ranges {
		if f := familyOf(r.Addr()); !slices.Contains(offered, f) {
			offered = append(offered, f)
		}
	}
	if len(offered) == 0 {
		return fmt.Errorf("service %s/%s: there is no Service range; apply a ServiceCIDR first", svc.Namespace, svc.Name)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		for _, ip := range svc.Spec.ClusterIPs { // the addresses determine the families
			if a, err := netip.ParseAddr(ip); err == nil {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, familyOf(a))
			}
		}
	}
	families, err := objects.Families(svc, offered)
	if err != nil {
		return fmt.Errorf("service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	var ips []string
	for _, f := range families {
		ip, err := s.oneClusterIP(ctx, svc, f, ranges, had)
		if err != nil {
			return fmt.Errorf("service %s/%s: %w", svc.Namespace, svc.Name, err)
		}
		ips = append(ips, ip)
	}
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs, svc.Spec.IPFamilies = ips[0], ips, families
	policy := corev1.IPFamilyPolicySingleStack
	if len(families) == 2 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	if svc.Spec.IPFamilyPolicy == nil {
		svc.Spec.IPFamilyPolicy = &policy
	}
	return nil
}

func (s *Store) oneClusterIP(ctx context.Context, svc *corev1.Service, f corev1.IPFamily, ranges []netip.Prefix,
	had []string) (string, error) {
	for i, ip := range svc.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil || familyOf(a) != f {
			continue
		}
		if !netx.Contains(ranges, a) {
			return "", fmt.Errorf("spec.clusterIPs[%d]: %s lies in none of the Service ranges %v", i, ip, ranges)
		}
		if key := s.ipKey(a.String()); !slices.Contains(had, key) {
			who, err := s.holderOf(ctx, key)
			if err != nil {
				return "", err
			}
			if who != "" {
				return "", fmt.Errorf("spec.clusterIPs[%d]: %s is held by service %s", i, ip, who)
			}
		}
		return a.String(), nil
	}
	for _, r := range ranges {
		if familyOf(r.Addr()) != f {
			continue
		}
		if ip, err := s.freeIP(ctx, r); err != nil || ip != "" {
			return ip, err
		}
	}
	return "", fmt.Errorf("every %s address of the Service ranges %v is taken", f, ranges)
}

// freeIP selects a free address of a range: at random above the band reserved for addresses that a manifest names (as in
// KEP-3070), then anywhere. The transaction fails if another Service has claimed it meanwhile.
func (s *Store) freeIP(ctx context.Context, r netip.Prefix) (string, error) {
	bits := min(r.Addr().BitLen()-r.Bits(), 24)
	size := 1 << bits
	last := size - 1
	if r.Addr().Is4() {
		last-- // the broadcast address
	}
	band := min(max(16, size/16), 256)
	if band >= last {
		band = 1
	}
	for range 8 {
		ip := netx.Nth(r, uint64(band+rand.IntN(last-band+1)))
		who, err := s.holderOf(ctx, s.ipKey(ip.String()))
		if err != nil {
			return "", err
		}
		if who == "" {
			return ip.String(), nil
		}
	}
	taken, err := s.taken(ctx, s.cli.Key("alloc", "clusterips", ""))
	if err != nil {
		return "", err
	}
	for i := 1; i <= last; i++ {
		if ip := netx.Nth(r, uint64((band+i-1)%last+1)).String(); !taken[ip] {
			return ip, nil
		}
	}
	return "", nil
}
