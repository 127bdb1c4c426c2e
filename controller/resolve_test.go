package controller

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func configMap(key, text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{Data: map[string]string{key: text}}
}

func serviceCIDR(name string, age int64, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(age, 0)},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

// The objects of a cluster, and the agents' settings in one line.
func TestResolve_EachCluster_SettingsAndNotes(t *testing.T) {
	apiService := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1"}}}
	dnsService := func(selector map[string]string, ips ...string) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: ips, Selector: selector}}
	}
	kubeadm := configMap("ClusterConfiguration",
		"networking: {podSubnet: '10.244.0.0/16,fd01::/48', serviceSubnet: 10.96.0.0/12, dnsDomain: kubeadm.test}")
	for _, c := range []struct {
		name, operator, want string
		v                    view
	}{
		{name: "one default range", v: view{serviceCIDRs: []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", 1, "10.43.0.0/16")}},
			want: "pods 10.42.0.0/16 services 10.43.0.0/16 domain cluster.local dns 10.43.0.10 create 10.43.0.10"},
		{name: "two families", v: view{serviceCIDRs: []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", 1, "10.43.0.0/16",
			"fd43::/112")}},
			want: "pods 10.42.0.0/16,fd42::/48 services 10.43.0.0/16,fd43::/112 domain cluster.local dns 10.43.0.10,fd43::a create " +
				"10.43.0.10,fd43::a"},
		{name: "IPv6 alone", v: view{serviceCIDRs: []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", 1, "fd43::/112")}},
			want: "pods fd42::/48 services fd43::/112 domain cluster.local dns fd43::a create fd43::a"},
		{name: "a later range does not count", v: view{serviceCIDRs: []*networkingv1.ServiceCIDR{serviceCIDR("a-more", 2,
			"10.99.0.0/16"), serviceCIDR("kubernetes", 3, "10.43.0.0/16")}},
			want: "pods 10.42.0.0/16 services 10.43.0.0/16 domain cluster.local dns 10.43.0.10 create 10.43.0.10"},
		{name: "kubeadm", v: view{kubeadm: kubeadm},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns 10.96.0.10 create 10.96.0.10"},
		{name: "nothing but the API's Service", v: view{apiService: apiService},
			want: "pods 10.42.0.0/16 services 10.96.0.0/16 domain cluster.local dns 10.96.0.10 create 10.96.0.10 note guessing"},
		{name: "nothing at all", v: view{}, want: "pods 10.42.0.0/16 services domain cluster.local dns note are unknown"},
		{name: "kubelets", v: view{kubeadm: kubeadm, kubelet: configMap("kubelet",
			"clusterDNS: [10.96.0.53]\nclusterDomain: kubelet.test\n")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubelet.test dns 10.96.0.53 create 10.96.0.53"},
		{name: "a node-local address is no Service's", v: view{kubeadm: kubeadm,
			kubelet: configMap("kubelet", "clusterDNS: [169.254.20.10]")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns 169.254.20.10"},
		{name: "the operator",
			operator: "podCIDRs: [10.1.0.0/16]\nserviceCIDRs: 10.2.0.0/16\ndomain: op.test\ndns: {addresses: [10.2.0.7]}\n",
			v:        view{kubeadm: kubeadm},
			want:     "pods 10.1.0.0/16 services 10.2.0.0/16 domain op.test dns 10.2.0.7 create 10.2.0.7"},
		{name: "the operator's dotted keys", operator: "dns.addresses: 10.96.0.7", v: view{kubeadm: kubeadm},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns 10.96.0.7 create 10.96.0.7"},
		{name: "no DNS", operator: "dns: {addresses: []}", v: view{kubeadm: kubeadm},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns"},
		{name: "CoreDNS stays", v: view{kubeadm: kubeadm, dnsService: dnsService(map[string]string{"k8s-app": "kube-dns"}, "10.96.0.10")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns note selects Pods, so they serve"},
		{name: "CoreDNS stays, and the operator switches", operator: "dns: {addresses: [10.96.0.10]}",
			v:    view{kubeadm: kubeadm, dnsService: dnsService(map[string]string{"k8s-app": "kube-dns"}, "10.96.0.10")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns 10.96.0.10 note every node answers"},
		{name: "adopted", v: view{kubeadm: kubeadm, dnsService: dnsService(nil, "10.96.0.99")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns 10.96.0.99 serve"},
		{name: "headless", v: view{kubeadm: kubeadm, dnsService: dnsService(nil, "None")},
			want: "pods 10.244.0.0/16,fd01::/48 services 10.96.0.0/12 domain kubeadm.test dns note no ClusterIP"},
		{name: "what was written before stays", v: view{cluster: configMap(clusterKey, "podCIDRs: [10.77.0.0/16]"),
			serviceCIDRs: []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", 1, "10.43.0.0/16", "fd43::/112")}},
			want: "pods 10.77.0.0/16 services 10.43.0.0/16,fd43::/112 domain cluster.local dns 10.43.0.10,fd43::a " +
				"create 10.43.0.10,fd43::a"},
		{name: "rubbish of others", v: view{kubeadm: configMap("ClusterConfiguration",
			"networking: {podSubnet: x, serviceSubnet: ','}"), kubelet: configMap("kubelet", "{"), apiService: apiService},
			want: "pods 10.42.0.0/16 services 10.96.0.0/16 domain cluster.local dns 10.96.0.10 create 10.96.0.10 note guessing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			op, err := parseOperator(configMap(operatorKey, c.operator))
			if err != nil {
				t.Fatal(err)
			}
			dns := planDNS(c.v, op)
			f, notes := resolve(c.v, op, dns)
			got := "pods " + joined(f.PodCIDRs) + "services " + joined(f.ServiceCIDRs) + "domain " + f.Domain + " dns " +
				joined(f.DNS.Addresses)
			if dns.create != nil {
				got += "create " + strings.Join(dns.create.Spec.ClusterIPs, ",") + " "
			}
			if dns.serve != nil {
				got += "serve "
			}
			want, note, _ := strings.Cut(c.want, "note ")
			if strings.TrimSpace(got) != strings.TrimSpace(want) {
				t.Errorf("\ngot  %s\nwant %s", got, want)
			}
			if all := strings.Join(append(notes, dns.note), "\n"); !strings.Contains(all, note) || note == "" &&
				strings.TrimSpace(all) != "" {
				t.Errorf("notes: %q, expected %q", all, note)
			}
		})
	}
}

func joined[T fmt.Stringer](in []T) string {
	var out []string
	for _, x := range in {
		out = append(out, x.String())
	}
	if out == nil {
		return ""
	}
	return strings.Join(out, ",") + " "
}

func TestResolve_InvalidOperatorConfig_IsAnError(t *testing.T) {
	for _, text := range []string{"podCIDRs: [10.1.0.0]", "dns: {addresses: [x]}", "[]", "a: 1\na: 2", "serviceCIDRs: {}"} {
		if op, err := parseOperator(configMap(operatorKey, text)); err == nil {
			t.Errorf("%q was accepted: %+v", text, op)
		}
	}
	if _, err := parseOperator(configMap(operatorKey, operatorComment)); err != nil {
		t.Error(err)
	}
}

func TestServers_SlicesOfTheAPI_ListAddresses(t *testing.T) {
	port, no := int32(6443), false
	got := servers([]*discoveryv1.EndpointSlice{
		{Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"192.0.2.2"}}, {Addresses: []string{"192.0.2.1"}},
			{Addresses: []string{"192.0.2.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}}}},
		{Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"2001:db8::1"}},
			{Addresses: []string{"192.0.2.1"}}}},
		{Ports: []discoveryv1.EndpointPort{{}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.9"}}}},
	})
	if want := "192.0.2.1:6443 192.0.2.2:6443 [2001:db8::1]:6443"; strings.Join(got, " ") != want {
		t.Errorf("got %v, expected %s", got, want)
	}
}

// The fake API server does not validate labels.
func TestLabels_EachLabel_IsValid(t *testing.T) {
	for k, v := range labels("x") {
		if errs := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); errs != nil {
			t.Errorf("%s=%s: %v", k, v, errs)
		}
	}
}

func FuzzOperator(f *testing.F) {
	f.Add(operatorComment)
	f.Add("dns: {addresses: [10.0.0.1]}\netcd.endpoints: a,b")
	f.Add("dns: 5")
	f.Fuzz(func(t *testing.T, text string) {
		op, err := parseOperator(configMap(operatorKey, text))
		if err == nil && op.dnsGiven != (op.dnsAddresses != nil) && len(op.dnsAddresses) > 0 {
			t.Error("addresses that were not configured")
		}
	})
}
