package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/store/etcd/registry"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// Pod ranges of a cluster without configured ones.
var (
	defaultPods4 = netip.MustParsePrefix("10.42.0.0/16")
	defaultPods6 = netip.MustParsePrefix("fd42::/48")
)

// resolve determines the agents' settings. In order of precedence they are the operator's, those of Kubernetes objects,
// those of the current ConfigMap, and defaults. notes explain what was guessed.
func resolve(v view, op operator, dns dnsPlan) (f clusterFile, notes []string) {
	before := parseCluster(v.cluster)
	f.ServiceCIDRs, notes = serviceCIDRs(v, op)
	f.PodCIDRs = podCIDRs(v, op, before, f.ServiceCIDRs)
	f.Domain = cmp.Or(op.domain, readKubelet(v.kubelet).ClusterDomain, readKubeadm(v.kubeadm).DNSDomain, "cluster.local")
	f.DNS.Addresses = append([]netip.Addr{}, dns.addresses...)
	f.Etcd.Endpoints = etcdEndpoints(v, op, before)
	if f.Kubernetes.Servers = servers(v.apiSlices); len(f.Kubernetes.Servers) == 0 {
		f.Kubernetes.Servers = before.Kubernetes.Servers
	}
	return f, notes
}

func podCIDRs(v view, op operator, before clusterFile, services []netip.Prefix) []netip.Prefix {
	if len(op.podCIDRs) > 0 {
		return op.podCIDRs
	}
	if p := readKubeadm(v.kubeadm).pods(); len(p) > 0 {
		return p
	}
	if len(before.PodCIDRs) > 0 {
		return before.PodCIDRs // blocks were claimed in them
	}
	var out []netip.Prefix
	for _, s := range services {
		if s.Addr().Is4() {
			out = append(out, defaultPods4)
		} else {
			out = append(out, defaultPods6)
		}
	}
	if out == nil {
		out = append(out, defaultPods4)
	}
	return out
}

// serviceCIDRs is one range per family, the primary family first. Agents start with these ranges and then watch ServiceCIDR
// objects themselves.
func serviceCIDRs(v view, op operator) (out []netip.Prefix, notes []string) {
	if len(op.serviceCIDRs) > 0 {
		return op.serviceCIDRs, nil
	}
	// The API server makes the object "kubernetes" from its flag; operators add others later.
	objects := slices.Clone(v.serviceCIDRs)
	slices.SortStableFunc(objects, func(a, b *networkingv1.ServiceCIDR) int {
		if (a.Name == "kubernetes") != (b.Name == "kubernetes") {
			return map[bool]int{true: -1, false: 1}[a.Name == "kubernetes"]
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	var all []netip.Prefix
	for _, o := range objects {
		if o.DeletionTimestamp == nil {
			all = append(all, prefixes(o.Spec.CIDRs)...)
		}
	}
	if all == nil {
		all = readKubeadm(v.kubeadm).services()
	}
	if all == nil {
		all, notes = guessServices(v.apiService)
	}
	return onePerFamily(all), notes
}

// guessServices returns the range around the address of Service default/kubernetes, which is the first of its range.
func guessServices(s *corev1.Service) (out []netip.Prefix, notes []string) {
	if s == nil {
		return nil, []string{"no ServiceCIDR objects, no kubeadm-config and no Service default/kubernetes: the Service ranges are unknown"}
	}
	for _, ip := range s.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		bits := 16
		if a.Is6() {
			bits = 112
		}
		p, _ := a.Prefix(bits)
		out = append(out, p)
		notes = append(notes, fmt.Sprintf("no ServiceCIDR objects and no kubeadm-config: guessing the Service range %s around %s; "+
			"set serviceCIDRs in ConfigMap %s if it is wrong", p, a, OperatorConfig))
	}
	return out, notes
}

func onePerFamily(in []netip.Prefix) (out []netip.Prefix) {
	for _, p := range in {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }) {
			out = append(out, p)
		}
	}
	return out
}

func etcdEndpoints(v view, op operator, before clusterFile) []string {
	if len(op.etcdEndpoints) > 0 {
		return op.etcdEndpoints
	}
	if v.etcd != nil {
		if r, err := registry.Parse(v.etcd); err == nil && len(r.ClientURLs("")) > 0 {
			return r.ClientURLs("")
		}
	}
	return before.Etcd.Endpoints
}

// servers are the API servers behind Service default/kubernetes.
func servers(in []*discoveryv1.EndpointSlice) (out []string) {
	for _, s := range in {
		for _, e := range s.Endpoints {
			for _, p := range s.Ports {
				if p.Port == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, a := range e.Addresses {
					if ip, err := netip.ParseAddr(a); err == nil {
						out = append(out, netip.AddrPortFrom(ip, uint16(*p.Port)).String())
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// kubeadmConfig has the network settings of ConfigMap kubeadm-config.
type kubeadmConfig struct {
	PodSubnet     string `json:"podSubnet"`
	ServiceSubnet string `json:"serviceSubnet"`
	DNSDomain     string `json:"dnsDomain"`
}

func (k kubeadmConfig) pods() []netip.Prefix { return prefixes(strings.Split(k.PodSubnet, ",")) }
func (k kubeadmConfig) services() []netip.Prefix {
	return prefixes(strings.Split(k.ServiceSubnet, ","))
}

func readKubeadm(cm *corev1.ConfigMap) kubeadmConfig {
	var f struct {
		Networking kubeadmConfig `json:"networking"`
	}
	if cm == nil || yaml.Unmarshal([]byte(cm.Data["ClusterConfiguration"]), &f) != nil {
		return kubeadmConfig{}
	}
	return f.Networking
}

// kubeletConfig has the DNS settings that kubelets configure in Pods.
type kubeletConfig struct {
	ClusterDNS    []string `json:"clusterDNS"`
	ClusterDomain string   `json:"clusterDomain"`
}

func readKubelet(cm *corev1.ConfigMap) (f kubeletConfig) {
	if cm == nil || yaml.Unmarshal([]byte(cm.Data["kubelet"]), &f) != nil {
		return kubeletConfig{}
	}
	return f
}

// prefixes parses ranges and leaves out invalid ones: the programs that own those objects report them.
func prefixes(in []string) (out []netip.Prefix) {
	for _, s := range in {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
