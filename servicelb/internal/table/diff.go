package table

import (
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// changedUnits names the Services and Pods whose frontends differ between two snapshots. Both are sorted, so one walk
// over both suffices. Lists that the snapshots share in memory are not compared.
func changedUnits(before, after *model.Snapshot, node string) map[unitName]bool {
	out := map[unitName]bool{}
	name := func(n model.ObjectName) { out[unitName{ObjectName: n}] = true }
	diff(before.Services, after.Services, func(s *model.Service) model.ObjectName { return s.ObjectName }, sameService,
		func(s *model.Service) { name(s.ObjectName) })
	diff(before.Slices, after.Slices, func(s *model.EndpointSlice) model.ObjectName { return s.ObjectName }, sameSlice,
		func(s *model.EndpointSlice) { name(model.ObjectName{Namespace: s.Namespace, Name: s.Service}) })
	diff(before.Pods, after.Pods, func(p *model.Pod) model.ObjectName { return p.ObjectName }, samePod,
		func(p *model.Pod) {
			if hasHostPorts(p, node) {
				out[unitName{p.ObjectName, true}] = true
			}
		})
	return out
}

// hasHostPorts reports whether a Pod of this node has host ports.
func hasHostPorts(p *model.Pod, node string) bool {
	return p.Node == node && len(p.HostPorts) > 0 && !p.HostNetwork
}

// diff calls changed for each element that only one of two sorted lists has, and for both forms of each that differs.
func diff[T any](before, after []T, name func(*T) model.ObjectName, same func(a, b *T) bool, changed func(*T)) {
	if len(before) == len(after) && (len(before) == 0 || &before[0] == &after[0]) {
		return
	}
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && name(&before[0]).Compare(name(&after[0])) < 0:
			changed(&before[0])
			before = before[1:]
		case len(before) == 0 || name(&after[0]).Compare(name(&before[0])) < 0:
			changed(&after[0])
			after = after[1:]
		default:
			if !same(&before[0], &after[0]) {
				changed(&before[0])
				changed(&after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
}

func sameService(a, b *model.Service) bool {
	return a.UID == b.UID && a.Type == b.Type && a.Headless == b.Headless && a.OtherProxy == b.OtherProxy &&
		a.ExternalPolicy == b.ExternalPolicy && a.InternalPolicy == b.InternalPolicy && a.Distribution == b.Distribution &&
		a.Affinity == b.Affinity && a.PublishNotReady == b.PublishNotReady && a.HealthCheckNodePort == b.HealthCheckNodePort &&
		same(a.ClusterIPs, b.ClusterIPs) && same(a.Ports, b.Ports) && same(a.ExternalIPs, b.ExternalIPs) &&
		same(a.LBAddresses, b.LBAddresses) && same(a.LBSourceRanges, b.LBSourceRanges) &&
		same(a.LBSourceInvalid, b.LBSourceInvalid) &&
		a.Annotations[Annotation] == b.Annotations[Annotation] &&
		a.Annotations[EjectAnnotation] == b.Annotations[EjectAnnotation]
}

func sameSlice(a, b *model.EndpointSlice) bool {
	return a.Service == b.Service && a.Family == b.Family && a.OtherProxy == b.OtherProxy && same(a.Ports, b.Ports) &&
		(shared(a.Endpoints, b.Endpoints) || slices.EqualFunc(a.Endpoints, b.Endpoints, sameEndpoint))
}

func sameEndpoint(a, b model.Endpoint) bool {
	return a.Addr == b.Addr && a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
		a.Node == b.Node && same(a.ZoneHints, b.ZoneHints) && same(a.NodeHints, b.NodeHints)
}

func samePod(a, b *model.Pod) bool {
	return a.Node == b.Node && a.HostNetwork == b.HostNetwork && same(a.Addrs, b.Addrs) && same(a.HostPorts, b.HostPorts)
}

func same[T comparable](a, b []T) bool { return shared(a, b) || slices.Equal(a, b) }

// shared reports whether two lists are the same memory.
func shared[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }
