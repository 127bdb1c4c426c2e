package objectstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
)

// nodePortRange is the first and the last node port: Kubernetes' default --service-node-port-range.
var nodePortRange = [2]int32{30000, 32767}

// keepPorts keeps the node ports that the Service has, unless the manifest names others.
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

// nodePorts completes the node ports of a Service.
func (s *Store) nodePorts(ctx context.Context, svc *corev1.Service, had []string) error {
	taken, err := s.taken(ctx, s.cli.Key("alloc", "nodeports", ""))
	if err != nil {
		return err
	}
	free := func(proto corev1.Protocol, port int32) bool {
		key := s.portKey(proto, port)
		return slices.Contains(had, key) || !taken[strings.TrimPrefix(key, s.cli.Key("alloc", "nodeports", ""))]
	}
	take := func(field string, proto corev1.Protocol, port *int32) error {
		var err error
		if *port, err = s.nodePort(ctx, proto, *port, free); err != nil {
			return fmt.Errorf("service %s/%s: %s: %w", svc.Namespace, svc.Name, field, err)
		}
		taken[strings.TrimPrefix(s.portKey(proto, *port), s.cli.Key("alloc", "nodeports", ""))] = true
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

// nodePort checks a requested port, or selects a free one if the request is 0.
func (s *Store) nodePort(ctx context.Context, proto corev1.Protocol, port int32, free func(corev1.Protocol, int32) bool) (int32, error) {
	if port != 0 && !free(proto, port) {
		who, err := s.holderOf(ctx, s.portKey(proto, port))
		if err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("node port %d/%s is held by service %s", port, proto, who)
	}
	if port != 0 && (port < nodePortRange[0] || port > nodePortRange[1]) {
		return 0, fmt.Errorf("%d is outside the node port range %d to %d", port, nodePortRange[0], nodePortRange[1])
	}
	n := nodePortRange[1] - nodePortRange[0] + 1
	for i, start := int32(0), rand.Int32N(n); port == 0 && i < n; i++ {
		if p := nodePortRange[0] + (start+i)%n; free(proto, p) {
			port = p
		}
	}
	if port == 0 {
		return 0, fmt.Errorf("every node port from %d to %d is taken", nodePortRange[0], nodePortRange[1])
	}
	return port, nil
}
