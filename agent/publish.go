package agent

import (
	"context"
	"reflect"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/ipam"
)

// published is how this node's Pods should stand in the store, for selectors and DNS in clusters without Kubernetes.
func (a *Agent) published() map[model.ObjectName]model.Pod {
	out := map[model.ObjectName]model.Pod{}
	for _, r := range a.plug.Pods() {
		p := a.podOf(r)
		p.Node, p.Zone = a.cfg.NodeName, a.cfg.Zone
		out[p.ObjectName] = p
	}
	return out
}

// podOf is a Pod as the cluster gets to know it.
func (a *Agent) podOf(r ipam.Record) model.Pod {
	return model.Pod{ObjectName: nameOf(r), UID: r.PodUID, Addrs: r.Addresses, Ready: a.ready(r), Labels: r.Labels, HostPorts: hostPorts(r.PortMappings)}
}

func hostPorts(list []api.PortMapping) (out []model.HostPort) {
	protocols := map[string]model.Protocol{"tcp": model.TCP, "udp": model.UDP, "sctp": model.SCTP}
	for _, m := range list {
		out = append(out, model.HostPort{Protocol: protocols[m.Protocol], HostPort: m.HostPort, ContainerPort: m.ContainerPort, HostIP: m.HostIP})
	}
	return out
}

// publish writes what differs between the store and this node's Pods: one write per Pod that came, went or changed.
func (a *Agent) publish(ctx context.Context, snap *model.Snapshot) error {
	want := a.published()
	if snap.Revision < a.publishedAt {
		return nil // the watch has not shown our last writes yet
	}
	for _, p := range snap.Pods {
		if p.Node != a.cfg.NodeName {
			continue
		}
		w, ok := want[p.ObjectName]
		delete(want, p.ObjectName)
		switch {
		case !ok:
			if err := a.store.DeletePod(ctx, p.ObjectName, a.cfg.NodeName); err != nil {
				return err
			}
		case !samePod(p, w):
			want[p.ObjectName] = w
		}
	}
	for _, p := range want {
		rev, err := a.store.PutPod(ctx, p)
		if err != nil {
			return err
		}
		a.publishedAt = rev
	}
	return nil
}

// samePod compares Pods as they come back from the store: an empty map or list there is nil.
func samePod(a, b model.Pod) bool {
	if len(a.Labels) == 0 && len(b.Labels) == 0 {
		a.Labels, b.Labels = nil, nil
	}
	return reflect.DeepEqual(a, b)
}
