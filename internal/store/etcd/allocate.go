package etcd

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// NodePorts is the range of node ports, as Kubernetes' default --service-node-port-range.
var NodePorts = [2]int32{30000, 32767}

// allocLayout is the layout version of the records under alloc/: the Service that holds the address or port.
const allocLayout = 1

// holder is the value of an allocation.
type holder struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func (s *Store) ipKey(ip string) string { return s.key("alloc", "clusterips", ip) }
func (s *Store) portKey(proto corev1.Protocol, port int32) string {
	return s.key("alloc", "nodeports", strings.ToLower(string(proto))+"-"+strconv.Itoa(int(port)))
}

// held lists the keys of what a Service holds.
func (s *Store) held(svc *corev1.Service) (out []string) {
	if objects.WantsClusterIP(svc) {
		for _, ip := range svc.Spec.ClusterIPs {
			if ip != "" {
				out = append(out, s.ipKey(ip))
			}
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, s.portKey(p.Protocol, p.NodePort))
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, s.portKey(corev1.ProtocolTCP, p))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// allocate completes a Service with addresses and ports, keeping those it has, and adds to txn the claims of new ones,
// the releases of old ones and the guards that make both safe.
func (s *Store) allocate(ctx context.Context, svc, before *corev1.Service, txn *transaction) error {
	had := []string{}
	if before != nil {
		had = s.held(before)
		keepAddresses(svc, before)
		keepPorts(svc, before)
	}
	if objects.WantsClusterIP(svc) {
		if err := s.clusterIPs(ctx, svc, had); err != nil {
			return err
		}
	} else if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
	}
	if err := s.nodePorts(ctx, svc, had); err != nil {
		return err
	}
	raw, err := model.Encode(allocLayout, holder{svc.Namespace, svc.Name, string(svc.UID)})
	if err != nil {
		return err
	}
	now := s.held(svc)
	for _, key := range now {
		if slices.Contains(had, key) {
			continue
		}
		txn.cmps = append(txn.cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		txn.ops = append(txn.ops, clientv3.OpPut(key, string(raw)))
	}
	for _, key := range had {
		if !slices.Contains(now, key) {
			txn.ops = append(txn.ops, clientv3.OpDelete(key))
		}
	}
	return nil
}

// keepAddresses: an address once given stays, as the API server has it, unless the manifest names another or the type
// needs none.
func keepAddresses(svc, before *corev1.Service) {
	if len(svc.Spec.ClusterIPs) == 0 && objects.WantsClusterIP(svc) && objects.WantsClusterIP(before) {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = before.Spec.ClusterIP, slices.Clone(before.Spec.ClusterIPs)
	}
}

func keepPorts(svc, before *corev1.Service) {
	if objects.WantsNodePorts(svc) {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			for _, b := range before.Spec.Ports {
				if p.NodePort == 0 && b.Port == p.Port && b.Protocol == p.Protocol {
					p.NodePort = b.NodePort
				}
			}
		}
	}
	if wantsHealthPort(svc) && svc.Spec.HealthCheckNodePort == 0 {
		svc.Spec.HealthCheckNodePort = before.Spec.HealthCheckNodePort
	}
}

func wantsHealthPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
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
		for _, ip := range svc.Spec.ClusterIPs { // the addresses say which families
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

func (s *Store) oneClusterIP(ctx context.Context, svc *corev1.Service, f corev1.IPFamily, ranges []netip.Prefix, had []string) (string, error) {
	for i, ip := range svc.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil || familyOf(a) != f {
			continue
		}
		if !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) }) {
			return "", fmt.Errorf("spec.clusterIPs[%d]: %s lies in none of the Service ranges %v", i, ip, ranges)
		}
		if key := s.ipKey(a.String()); !slices.Contains(had, key) {
			if who, err := s.holderOf(ctx, key); err != nil || who != "" {
				return "", errors2(err, "spec.clusterIPs[%d]: %s is held by service %s", i, ip, who)
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

// errors2 returns err if there is one, else a new error.
func errors2(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return fmt.Errorf(format, args...)
}

// holderOf returns the Service that holds a key, "" for nobody.
func (s *Store) holderOf(ctx context.Context, key string) (string, error) {
	ctx, cancel := request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return "", err
	}
	var h holder
	if err := model.Decode(resp.Kvs[0].Value, allocLayout, &h); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return h.Namespace + "/" + h.Name, nil
}

// freeIP picks a free address of a range: at random above the band that is kept for addresses asked for by hand (as
// KEP-3070 has it), then anywhere. The transaction makes sure that nobody took it meanwhile.
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
		ip := nthAddr(r, band+rand.IntN(last-band+1))
		who, err := s.holderOf(ctx, s.ipKey(ip.String()))
		if err != nil {
			return "", err
		}
		if who == "" {
			return ip.String(), nil
		}
	}
	taken, err := s.taken(ctx, s.key("alloc", "clusterips", ""))
	if err != nil {
		return "", err
	}
	for i := 1; i <= last; i++ {
		if ip := nthAddr(r, (band+i-1)%last+1).String(); !taken[ip] {
			return ip, nil
		}
	}
	return "", nil
}

func nthAddr(r netip.Prefix, i int) netip.Addr {
	sum := new(big.Int).Add(new(big.Int).SetBytes(r.Masked().Addr().AsSlice()), big.NewInt(int64(i)))
	a, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, r.Addr().BitLen()/8)))
	return a
}

// taken lists what is allocated below a prefix, without the prefix.
func (s *Store) taken(ctx context.Context, prefix string) (map[string]bool, error) {
	ctx, cancel := request(ctx)
	defer cancel()
	resp, err := s.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), prefix)] = true
	}
	return out, nil
}

// nodePorts completes the Service's node ports. The same number serves TCP and UDP ports of one Service where free.
func (s *Store) nodePorts(ctx context.Context, svc *corev1.Service, had []string) error {
	taken, err := s.taken(ctx, s.key("alloc", "nodeports", ""))
	if err != nil {
		return err
	}
	free := func(proto corev1.Protocol, port int32) bool {
		key := s.portKey(proto, port)
		return slices.Contains(had, key) || !taken[strings.TrimPrefix(key, s.key("alloc", "nodeports", ""))]
	}
	take := func(field string, proto corev1.Protocol, port *int32) error {
		if *port != 0 && !free(proto, *port) {
			who, err := s.holderOf(ctx, s.portKey(proto, *port))
			return errors2(err, "service %s/%s: %s: node port %d/%s is held by service %s", svc.Namespace, svc.Name, field, *port, proto, who)
		}
		if *port != 0 && (*port < NodePorts[0] || *port > NodePorts[1]) {
			return fmt.Errorf("service %s/%s: %s: %d is outside the node port range %d to %d", svc.Namespace, svc.Name, field, *port, NodePorts[0], NodePorts[1])
		}
		n := NodePorts[1] - NodePorts[0] + 1
		for i, start := int32(0), rand.Int32N(n); *port == 0 && i < n; i++ {
			if p := NodePorts[0] + (start+i)%n; free(proto, p) {
				*port = p
			}
		}
		if *port == 0 {
			return fmt.Errorf("service %s/%s: %s: every node port from %d to %d is taken", svc.Namespace, svc.Name, field, NodePorts[0], NodePorts[1])
		}
		taken[strings.TrimPrefix(s.portKey(proto, *port), s.key("alloc", "nodeports", ""))] = true
		return nil
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if !objects.WantsNodePorts(svc) && (p.NodePort == 0 || svc.Spec.Type != corev1.ServiceTypeLoadBalancer) {
			p.NodePort = 0
			continue
		}
		if err := take(fmt.Sprintf("spec.ports[%d].nodePort", i), p.Protocol, &p.NodePort); err != nil {
			return err
		}
	}
	if !wantsHealthPort(svc) {
		svc.Spec.HealthCheckNodePort = 0
		return nil
	}
	return take("spec.healthCheckNodePort", corev1.ProtocolTCP, &svc.Spec.HealthCheckNodePort)
}
