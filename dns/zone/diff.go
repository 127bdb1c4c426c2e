package zone

import (
	"slices"
	"unsafe"

	"github.com/warrennet/warren/internal/model"
)

// slicesByService finds the EndpointSlices of a Service. It is one chain per Service in two arrays, not a list per Service.
type slicesByService struct {
	slices []model.EndpointSlice
	head   map[model.ObjectName]int32
	next   []int32 // -1 ends a chain
}

func groupSlices(snap *model.Snapshot) slicesByService {
	g := slicesByService{snap.Slices, make(map[model.ObjectName]int32, len(snap.Slices)), make([]int32, len(snap.Slices))}
	for i := len(snap.Slices) - 1; i >= 0; i-- {
		name := model.ObjectName{Namespace: snap.Slices[i].Namespace, Name: snap.Slices[i].Service}
		if was, ok := g.head[name]; ok {
			g.next[i] = was
		} else {
			g.next[i] = -1
		}
		g.head[name] = int32(i)
	}
	return g
}

func (g slicesByService) of(name model.ObjectName) []*model.EndpointSlice {
	var out []*model.EndpointSlice
	if i, ok := g.head[name]; ok {
		for ; i >= 0; i = g.next[i] {
			out = append(out, &g.slices[i])
		}
	}
	return out
}

// sameInput reports whether two inputs compile to the same names.
func sameInput(a, b input) bool {
	x, y := a.svc, b.svc
	if x.Type != y.Type || x.Headless != y.Headless || x.PublishNotReady != y.PublishNotReady || x.ExternalName != y.ExternalName ||
		!x.Created.Equal(y.Created) ||
		!slices.Equal(x.ClusterIPs, y.ClusterIPs) || !slices.EqualFunc(x.Ports, y.Ports, samePort) {
		return false
	}
	if !y.Headless {
		return true // the names of a ClusterIP do not depend on endpoints
	}
	return slices.EqualFunc(a.slices, b.slices, sameEndpoints)
}

func samePort(a, b model.ServicePort) bool {
	return a.Name == b.Name && a.Protocol == b.Protocol && a.Port == b.Port
}

func sameEndpoints(a, b *model.EndpointSlice) bool {
	if !slices.Equal(a.Ports, b.Ports) || len(a.Endpoints) != len(b.Endpoints) {
		return false
	}
	if unsafe.SliceData(a.Endpoints) == unsafe.SliceData(b.Endpoints) {
		return true // the same immutable object of the store
	}
	return slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y model.Endpoint) bool {
		return x.Addr == y.Addr && x.Ready == y.Ready && x.Hostname == y.Hostname
	})
}
