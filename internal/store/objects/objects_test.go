package objects

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	sigsyaml "sigs.k8s.io/yaml"
)

func manifest(kind, spec string) string {
	api := map[string]string{"Service": "v1", "Endpoints": "v1", "EndpointSlice": "discovery.k8s.io/v1",
		"ServiceCIDR": "networking.k8s.io/v1", "AddressPool": "warren.dev/v1alpha1", "Secret": "v1",
		"Ingress": "networking.k8s.io/v1", "IngressClass": "networking.k8s.io/v1"}[kind]
	return "apiVersion: " + api + "\nkind: " + kind + "\nmetadata: {name: x}\n" + spec + "\n"
}

// path is an Ingress with one path.
func path(fields string) string {
	return manifest("Ingress", "spec: {rules: [{http: {paths: [{"+fields+"backend: {service: {name: a, port: {number: 80}}}}]}}]}")
}

// Every mistake is refused with the field that is wrong; the texts are those of the API server where it has one.
func TestValidate_EachMistake_NamesTheField(t *testing.T) {
	for _, tc := range []struct{ yaml, want string }{
		{"", "no object found"},
		{"a: [", "document 1"},
		{"kind: Pod\napiVersion: v1\n", `kind "Pod" is not supported; expected one of`},
		{"apiVersion: v1\n", "kind: is empty"},
		{"kind: Service\napiVersion: v2\n", `apiVersion: "v2", expected "v1"`},
		{manifest("Service", "spec: {prots: []}"), `unknown field "prots"`},
		{manifest("Service", "spec: {ports: [{port: 80}], ports: []}"), "already set"},
		{strings.Replace(manifest("Service", "spec: {ports: [{port: 80}]}"), "name: x", "name: 1x", 1), "metadata.name"},
		{strings.Replace(manifest("Service", "spec: {ports: [{port: 80}]}"), "name: x", "name: ''", 1), "metadata.name: Required"},
		{strings.Replace(manifest("Service", "spec: {ports: [{port: 80}]}"), "{name: x}", "{name: x, namespace: A_B}", 1),
			"metadata.namespace"},
		{strings.Replace(manifest("Service", "spec: {ports: [{port: 80}]}"), "{name: x}", "{name: x, labels: {'a b': c}}", 1),
			"metadata.labels"},
		{manifest("Service", "spec: {}"), "spec.ports: Required"},
		{manifest("Service", "spec: {type: Magic, ports: [{port: 80}]}"), "spec.type: Unsupported value"},
		{manifest("Service", "spec: {ports: [{port: 0}]}"), "spec.ports[0].port"},
		{manifest("Service", "spec: {ports: [{port: 70000}]}"), "spec.ports[0].port"},
		{manifest("Service", "spec: {ports: [{port: 80, protocol: ICMP}]}"), "spec.ports[0].protocol: Unsupported value"},
		{manifest("Service", "spec: {ports: [{port: 80}, {port: 81}]}"), "spec.ports[1].name: Required"},
		{manifest("Service", "spec: {ports: [{name: a, port: 80}, {name: a, port: 81}]}"), "spec.ports[1].name: Duplicate"},
		{manifest("Service", "spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}"), "spec.ports[1]: Duplicate"},
		{manifest("Service", "spec: {ports: [{port: 80, targetPort: 'NOT A NAME'}]}"), "spec.ports[0].targetPort"},
		{manifest("Service", "spec: {ports: [{port: 80, nodePort: 30000}]}"), "spec.ports[0].nodePort: Forbidden"},
		{manifest("Service", "spec: {type: NodePort, ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}]}"),
			"spec.ports[1].nodePort: Duplicate"},
		{manifest("Service", "spec: {clusterIP: 10.0.0.300, ports: [{port: 80}]}"), "spec.clusterIPs[0]"},
		{manifest("Service", "spec: {clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 80}]}"), "at most one address per family"},
		{manifest("Service", "spec: {clusterIP: None, type: NodePort, ports: [{port: 80}]}"), "may not be None"},
		{manifest("Service", "spec: {externalIPs: [127.0.0.1], ports: [{port: 80}]}"), "spec.externalIPs[0]"},
		{manifest("Service", "spec: {type: LoadBalancer, loadBalancerSourceRanges: [1.2.3.4/99], ports: [{port: 80}]}"),
			"spec.loadBalancerSourceRanges[0]"},
		{manifest("Service", "spec: {loadBalancerSourceRanges: [1.2.3.0/24], ports: [{port: 80}]}"),
			"spec.loadBalancerSourceRanges: Forbidden"},
		{manifest("Service", "spec: {externalTrafficPolicy: Local, ports: [{port: 80}]}"), "spec.externalTrafficPolicy"},
		{manifest("Service", "spec: {type: NodePort, externalTrafficPolicy: Near, ports: [{port: 80}]}"),
			"spec.externalTrafficPolicy: Unsupported"},
		{manifest("Service", "spec: {internalTrafficPolicy: Near, ports: [{port: 80}]}"), "spec.internalTrafficPolicy: Unsupported"},
		{manifest("Service", "spec: {sessionAffinity: Cookie, ports: [{port: 80}]}"), "spec.sessionAffinity: Unsupported"},
		{manifest("Service", "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: "+
			"80}]}"), "timeoutSeconds"},
		{manifest("Service", "spec: {sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}, ports: [{port: 80}]}"),
			"spec.sessionAffinityConfig: Forbidden"},
		{manifest("Service", "spec: {trafficDistribution: Nearby, ports: [{port: 80}]}"), "spec.trafficDistribution: Unsupported"},
		{manifest("Service", "spec: {healthCheckNodePort: 30001, ports: [{port: 80}]}"), "spec.healthCheckNodePort"},
		{manifest("Service", "spec: {loadBalancerClass: x, ports: [{port: 80}]}"), "spec.loadBalancerClass: Forbidden"},
		{manifest("Service", "spec: {allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}"),
			"spec.allocateLoadBalancerNodePorts: Forbidden"},
		{manifest("Service", "spec: {type: ExternalName}"), "spec.externalName: Required"},
		{manifest("Service", "spec: {type: ExternalName, externalName: 'not a name'}"), "spec.externalName: Invalid"},
		{manifest("Service", "spec: {ipFamilies: [IPv5], ports: [{port: 80}]}"), "spec.ipFamilies[0]: Unsupported"},
		{manifest("Service", "spec: {ipFamilyPolicy: Many, ports: [{port: 80}]}"), "spec.ipFamilyPolicy: Unsupported"},
		{manifest("Service", "spec: {selector: {'a b': c}, ports: [{port: 80}]}"), "spec.selector"},
		{manifest("EndpointSlice", "endpoints: []"), "addressType: Required"},
		{manifest("EndpointSlice", "addressType: IPv4\nendpoints: [{addresses: []}]"), "endpoints[0].addresses: Required"},
		{manifest("EndpointSlice", "addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]"), "endpoints[0].addresses[0]"},
		{manifest("EndpointSlice", "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]"), "loopback"},
		{manifest("EndpointSlice", "addressType: IPv4\nendpoints: []\nports: [{name: a, port: 1}, {name: a, port: 2}]"),
			"ports[1].name: Duplicate"},
		{manifest("EndpointSlice", "addressType: IPv4\nendpoints: []\nports: [{port: 0}]"), "ports[0].port"},
		{manifest("Endpoints", "subsets: [{ports: [{port: 80}]}]"), "subsets[0]: Required"},
		{manifest("Endpoints", "subsets: [{addresses: [{ip: 169.254.1.1}], ports: [{port: 80}]}]"), "subsets[0].addresses[0].ip"},
		{manifest("ServiceCIDR", "spec: {cidrs: []}"), "spec.cidrs"},
		{manifest("ServiceCIDR", "spec: {cidrs: [10.43.0.1/16]}"), "spec.cidrs[0]"},
		{manifest("ServiceCIDR", "spec: {cidrs: [10.43.0.0/16, 10.44.0.0/16]}"), "spec.cidrs[1]"},
		{manifest("Service", "spec: {type: LoadBalancer, loadBalancerIP: x, ports: [{port: 80}]}"), "spec.loadBalancerIP: Invalid"},
		{manifest("AddressPool", "spec: {}"), "spec.addresses: Required"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.1/28]}"),
			"spec.addresses[0]: Invalid value: \"192.0.2.1/28\": must be a CIDR without host bits"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.0/28, 192.0.2.9-192.0.2.1]}"),
			"spec.addresses[1]: Invalid value: \"192.0.2.9-192.0.2.1\": ends before it begins"},
		{manifest("AddressPool", "spec: {addresses: ['192.0.2.1-fd00::1']}"), "of one family"},
		{manifest("AddressPool", "spec: {addresses: [127.0.0.0/28]}"), "spec.addresses[0]"},
		{manifest("AddressPool", "spec: {addresses: ['fe80::/120']}"), "unicast"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.0/28, 192.0.2.15-192.0.2.20]}"),
			"spec.addresses[1]: Invalid value: \"192.0.2.15-192.0.2.20\": overlaps 192.0.2.0/28"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.0/28], namespaces: [A_B]}"), "spec.namespaces[0]"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.0/28], namespaces: [a, a]}"), "spec.namespaces[1]: Duplicate"},
		{manifest("AddressPool", "spec: {addresses: [192.0.2.0/28], autoAsign: true}"), "unknown field \"autoAsign\""},
		{strings.Replace(manifest("ServiceCIDR", "spec: {cidrs: [10.43.0.0/16]}"), "{name: x}", "{name: x, namespace: ns}", 1),
			"metadata.namespace: Forbidden"},
		{manifest("Ingress", "spec: {}"), "either defaultBackend or rules must be specified"},
		{manifest("Ingress", "spec: {rules: [{host: 192.0.2.1}]}"), "spec.rules[0].host: Invalid value: \"192.0.2.1\": must be a DNS name"},
		{manifest("Ingress", "spec: {rules: [{host: 'a.*.test'}]}"), "spec.rules[0].host: Invalid"},
		{manifest("Ingress", "spec: {rules: [{host: A.test}]}"), "spec.rules[0].host: Invalid"},
		{manifest("Ingress", "spec: {rules: [{http: {paths: []}}]}"), "spec.rules[0].http.paths: Required"},
		{path("path: x, pathType: Prefix, "), "paths[0].path: Invalid value: \"x\": must be an absolute path"},
		{path("path: x, pathType: ImplementationSpecific, "), "paths[0].path: Invalid value: \"x\": must be an absolute path"},
		{path("path: /a//b, pathType: Exact, "), "must not contain \"//\""},
		{path("path: /a%2Fb, pathType: Exact, "), "must not contain \"%2F\""},
		{path("path: /a/.., pathType: Prefix, "), "must not end with \"/..\""},
		{path("path: /a, "), "paths[0].pathType: Required"},
		{path("path: /a, pathType: Regex, "), "paths[0].pathType: Unsupported value"},
		{manifest("Ingress", "spec: {defaultBackend: {}}"), "spec.defaultBackend: Required"},
		{manifest("Ingress", "spec: {defaultBackend: {service: {name: 1a, port: {number: 80}}}}"), "spec.defaultBackend.service.name"},
		{manifest("Ingress", "spec: {defaultBackend: {service: {name: a, port: {}}}}"), "spec.defaultBackend.service.port: Required"},
		{manifest("Ingress", "spec: {defaultBackend: {service: {name: a, port: {name: a, number: 1}}}}"), "not both"},
		{manifest("Ingress", "spec: {defaultBackend: {service: {name: a, port: {number: 70000}}}}"), "service.port.number"},
		{manifest("Ingress", "spec: {defaultBackend: {resource: {kind: B, name: ''}}}"), "spec.defaultBackend.resource.name: Required"},
		{manifest("Ingress", "spec: {tls: [{hosts: [x_y], secretName: A}], defaultBackend: {resource: {kind: B, name: b}}}"),
			"spec.tls[0].hosts[0]"},
		{strings.Replace(manifest("Ingress", "spec: {ingressClassName: a, defaultBackend: {resource: {kind: B, name: b}}}"), "{name: x}",
			"{name: x, annotations: {kubernetes.io/ingress.class: b}}", 1), "may not be set together with spec.ingressClassName"},
		{manifest("IngressClass", "spec: {}"), "spec.controller: Required"},
		{manifest("IngressClass", "spec: {controller: warren}"), "spec.controller: Invalid"},
		{manifest("IngressClass", "spec: {controller: a.b/c, parameters: {kind: K}}"), "spec.parameters.name: Required"},
		{manifest("Secret", "type: Opaque"), "type: Unsupported value"},
		{manifest("Secret", "type: kubernetes.io/tls\nstringData: {tls.crt: x}"), "data[tls.key]: Required"},
		{manifest("Secret", "type: kubernetes.io/tls\nstringData: {tls.crt: x, tls.key: z}"), "failed to find any PEM data"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			objs, err := Parse(strings.NewReader(tc.yaml), "default")
			for _, o := range objs {
				if err == nil {
					err = Validate(o)
				}
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, expected %q for\n%s", err, tc.want, tc.yaml)
			}
		})
	}
}

// All mistakes of an object are reported at once.
func TestValidate_SeveralMistakes_AllAreReported(t *testing.T) {
	objs, err := Parse(strings.NewReader(manifest("Service", "spec: {type: Magic, sessionAffinity: Cookie, ports: [{port: 0}]}")),
		"default")
	if err != nil {
		t.Fatal(err)
	}
	err = Validate(objs[0])
	for _, want := range []string{"spec.type", "spec.sessionAffinity", "spec.ports[0].port"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// Values are read as Kubernetes reads them. A source range that is no CIDR is kept: it admits no client.
func TestService_LegacyFormsOfAddresses_AreRead(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{" 010.043.0.5"}, ExternalIPs: []string{"192.0.2.09 "},
		LoadBalancerIP: "192.0.2.010", LoadBalancerSourceRanges: []string{" 172.16.0.0/12", "010.0.0.0/8\t", "fd00::1/64", "x", ""}}}
	got := Service(s)
	want := model.Service{AllocateNodePorts: true, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.5")},
		ExternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, LBRequested: netip.MustParseAddr("192.0.2.10"),
		LBSourceRanges: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("10.0.0.0/8"),
			netip.MustParsePrefix("fd00::/64")}, LBSourceInvalid: []string{"x", ""}}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func TestService_EveryField_IsConverted(t *testing.T) {
	objs, err := Parse(strings.NewReader(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod, uid: u1, labels: {service.kubernetes.io/service-proxy-name: other}, annotations: {a: b}}
spec:
  type: LoadBalancer
  clusterIPs: [10.43.0.5, "fd43::5"]
  selector: {app: web}
  externalIPs: [192.0.2.9]
  loadBalancerSourceRanges: [198.51.100.7/24]
  loadBalancerClass: example.com/lb
  allocateLoadBalancerNodePorts: false
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 30999
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  trafficDistribution: PreferClose
  publishNotReadyAddresses: true
  ports: [{name: http, port: 80, targetPort: web, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, targetPort: "5353"}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.50, ipMode: VIP}, {ip: 192.0.2.51, ipMode: Proxy}, {ip: 192.0.2.52}]}}
---
kind: List
apiVersion: v1
items:
- {apiVersion: v1, kind: Service, metadata: {name: ext}, spec: {type: ExternalName, externalName: example.org}}
- {apiVersion: v1, kind: Service, metadata: {name: less}, spec: {clusterIP: None, ports: [{port: 1}]}}
`), "default")
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr
	want := []model.Service{
		{ObjectName: model.ObjectName{Namespace: "prod", Name: "web"}, UID: "u1", Type: model.LoadBalancer, OtherProxy: true,
			ClusterIPs: []netip.Addr{ip("10.43.0.5"),
				ip("fd43::5")}, Selector: map[string]string{"app": "web"}, ExternalIPs: []netip.Addr{ip("192.0.2.9")},
			LBAddresses: []netip.Addr{ip("192.0.2.50"),
				ip("192.0.2.52")}, LBExternal: true, LBClass: "example.com/lb",
			LBSourceRanges:      []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
			HealthCheckNodePort: 30999, ExternalPolicy: model.PolicyLocal, InternalPolicy: model.PolicyLocal,
			Distribution: model.PreferSameZone,
			Affinity:     time.Minute, PublishNotReady: true,
			Labels: map[string]string{"service.kubernetes.io/service-proxy-name": "other"}, Annotations: map[string]string{"a": "b"},
			Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80, NodePort: 30080, TargetPortName: "web"},
				{Name: "dns", Protocol: model.UDP, Port: 53, TargetPort: 5353}}},
		{ObjectName: model.ObjectName{Namespace: "default", Name: "ext"}, Type: model.ExternalName, ExternalName: "example.org",
			AllocateNodePorts: true},
		{ObjectName: model.ObjectName{Namespace: "default", Name: "less"}, Headless: true, AllocateNodePorts: true,
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 1, TargetPort: 1}}},
	}
	for i, o := range objs {
		if err := Validate(o); err != nil && o.GetName() != "web" { // web has a health check port out of range on purpose
			t.Error(err)
		}
		if d := cmp.Diff(want[i], Service(o.(*corev1.Service)), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
			cmpopts.EquateEmpty()); d != "" {
			t.Errorf("service %d (-want +got):\n%s", i, d)
		}
	}
}

// Conditions that are nil have the defaults of discovery/v1. FQDN slices and slices without a Service are not converted.
func TestIngress_EveryField_IsConverted(t *testing.T) {
	objs, err := Parse(strings.NewReader(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in, namespace: prod, uid: u1, annotations: {warren.dev/a: b}}
spec:
  ingressClassName: warren
  tls: [{hosts: [x.test, "*.y.test"], secretName: cert}]
  defaultBackend: {resource: {apiGroup: a.test, kind: Bucket, name: b}}
  rules:
  - host: x.test
    http:
      paths:
      - {path: /e, pathType: Exact, backend: {service: {name: a, port: {number: 80}}}}
      - {path: /p, pathType: Prefix, backend: {service: {name: b, port: {name: http}}}}
      - {pathType: ImplementationSpecific, backend: {service: {name: c, port: {number: 8080}}}}
  - host: "*.y.test"
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.test}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, namespace: prod, annotations: {kubernetes.io/ingress.class: warren}}
spec: {rules: [{host: z.test}]}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: warren, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: warren.dev/ingress, parameters: {kind: Config, name: c}}
`), "default")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objs {
		if err := Validate(o); err != nil {
			t.Error(err)
		}
	}
	want := &model.Ingress{ObjectName: model.ObjectName{Namespace: "prod", Name: "in"}, UID: "u1", Class: "warren",
		Annotations: map[string]string{"warren.dev/a": "b"}, Default: &model.IngressBackend{Resource: "Bucket b"},
		TLS: []model.IngressTLS{{Hosts: []string{"x.test", "*.y.test"}, Secret: "cert"}}, Addresses: []string{"192.0.2.1", "lb.test"},
		Rules: []model.IngressRule{{Host: "x.test", Paths: []model.IngressPath{
			{Path: "/e", Type: model.PathExact, Backend: model.IngressBackend{Service: "a", Port: 80}},
			{Path: "/p", Type: model.PathPrefix, Backend: model.IngressBackend{Service: "b", PortName: "http"}},
			{Type: model.PathImplementationSpecific, Backend: model.IngressBackend{Service: "c", Port: 8080}}}}, {Host: "*.y.test"}}}
	if d := cmp.Diff(want, Ingress(objs[0].(*networkingv1.Ingress))); d != "" {
		t.Errorf("Ingress (-want +got):\n%s", d)
	}
	if in := Ingress(objs[1].(*networkingv1.Ingress)); in.Class != "" || in.ClassAnnotation != "warren" {
		t.Errorf("class %q, annotation %q", in.Class, in.ClassAnnotation)
	}
	class := &model.IngressClass{Name: "warren", Controller: "warren.dev/ingress", Default: true, Parameters: "Config c"}
	if d := cmp.Diff(class, IngressClass(objs[2].(*networkingv1.IngressClass))); d != "" {
		t.Errorf("IngressClass (-want +got):\n%s", d)
	}
}

func TestSlice_ConditionsAndHints_AreConverted(t *testing.T) {
	objs, err := Parse(strings.NewReader(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80}, {name: any}]
endpoints:
- {addresses: [10.42.0.5, 10.42.0.6], nodeName: n1, zone: a, hints: {forZones: [{name: a}]}, targetRef: {kind: Pod, namespace: default, name: p}}
- {addresses: [10.42.0.7], conditions: {ready: false}}
- {addresses: [10.42.0.8], conditions: {ready: false, serving: true, terminating: true}, hostname: h}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: fqdn, labels: {kubernetes.io/service-name: web}}
addressType: FQDN
endpoints: [{addresses: [example.org]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orphan}
addressType: IPv4
endpoints: []
`), "default")
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr
	got, ok := Slice(objs[0].(*discoveryv1.EndpointSlice))
	want := []model.Endpoint{
		{Addr: ip("10.42.0.5"), Ready: true, Serving: true, Node: "n1", Zone: "a", ZoneHints: []string{"a"},
			Pod: model.ObjectName{Namespace: "default", Name: "p"}},
		{Addr: ip("10.42.0.7")},
		{Addr: ip("10.42.0.8"), Serving: true, Terminating: true, Hostname: "h"},
	}
	if d := cmp.Diff(want, got.Endpoints, cmpopts.EquateComparable(netip.Addr{})); d != "" || !ok {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
	if len(got.Ports) != 1 || got.Ports[0].Port != 80 || got.Ports[0].Protocol != model.TCP {
		t.Errorf("ports %v", got.Ports)
	}
	for _, o := range objs[1:] {
		if _, ok := Slice(o.(*discoveryv1.EndpointSlice)); ok {
			t.Errorf("slice %s was taken", o.GetName())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(manifest("Service", "spec: {ports: [{port: 80}]}"))
	f.Add("kind: List\nitems: [{}]")
	f.Fuzz(func(t *testing.T, yaml string) {
		objs, _ := Parse(strings.NewReader(yaml), "default")
		for _, o := range objs {
			_ = Validate(o) // must not panic
			switch o := o.(type) {
			case *corev1.Service:
				Default(o, time.Unix(0, 0))
				Service(o)
			case *discoveryv1.EndpointSlice:
				Slice(o)
			case *HandEndpoints:
				Endpoints(o)
			}
		}
	})
}

// The schema that Kubernetes checks is that of the Go type, and lets through what Validate does.
func TestAddressPool_Schema_AgreesWithValidate(t *testing.T) {
	raw, err := os.ReadFile("../../../deploy/kubeadm/addresspool-crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type property struct {
		Type  string
		Items struct{ Pattern string }
	}
	var crd struct {
		Metadata struct{ Name string }
		Spec     struct {
			Group, Scope string
			Names        struct{ Kind, Plural string }
			Versions     []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Spec struct {
								Required   []string
								Properties map[string]property
							}
						}
					}
				}
			}
		}
	}
	if err := sigsyaml.Unmarshal(raw, &crd); err != nil {
		t.Fatal(err)
	}
	k, err := KindNamed("AddressPool")
	if err != nil {
		t.Fatal(err)
	}
	v := crd.Spec.Versions[0]
	if crd.Spec.Group+"/"+v.Name != k.APIVersion || crd.Spec.Names.Kind != k.Name || crd.Spec.Names.Plural != k.Plural ||
		crd.Spec.Scope != "Cluster" || crd.Metadata.Name != k.Plural+"."+crd.Spec.Group {
		t.Errorf("the definition is of %+v, the kind is %+v", crd.Spec, k)
	}
	spec := v.Schema.OpenAPIV3Schema.Properties.Spec
	fields := reflect.TypeFor[AddressPoolSpec]()
	var pattern *regexp.Regexp
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		if _, ok := spec.Properties[name]; !ok {
			t.Errorf("the schema lacks spec.%s", name)
		}
		if name == "addresses" {
			pattern = regexp.MustCompile(spec.Properties[name].Items.Pattern)
		}
		delete(spec.Properties, name)
	}
	if len(spec.Properties) > 0 {
		t.Errorf("the schema has more than the type: %v", spec.Properties)
	}
	for s, want := range map[string]bool{"192.0.2.0/28": true, "192.0.2.1-192.0.2.9": true, "fd77::/120": true,
		"fd77::1-fd77::9": true, "192.0.2.1": false, "192.0.2.1 - 192.0.2.9": false, "": false} {
		t.Run(s, func(t *testing.T) {
			if _, err := lbpool.ParseRange(s); pattern.MatchString(s) != want || (err == nil) != want {
				t.Errorf("%q: the schema accepts %v, the parser returns %v", s, pattern.MatchString(s), err)
			}
		})
	}
}
