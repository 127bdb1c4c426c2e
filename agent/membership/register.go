package membership

import (
	"context"
	"reflect"

	"github.com/warrennet/warren/internal/model"
)

// register writes the Node record when it differs from the desired one.
func (j *joiner) register(ctx context.Context, snap *model.Snapshot) error {
	want := j.record.Load()
	if want == nil || snap.Revision < j.registeredAt {
		return nil // no plan yet, or the watch has not shown the last write
	}
	have, ok := snap.Node(want.Name)
	have.Alive = false
	if ok && reflect.DeepEqual(normal(have), normal(*want)) {
		return nil
	}
	rev, err := j.cfg.Store.PutNode(ctx, *want)
	if err == nil {
		j.registeredAt = rev
		j.log.Info("registered this node", "node", want.Name, "cidrs", want.PodCIDRs, "addresses", want.Endpoints)
	}
	return err
}

// normal makes empty and nil lists equal.
func normal(n model.Node) model.Node {
	if len(n.Endpoints) == 0 {
		n.Endpoints = nil
	}
	if len(n.Addresses) == 0 {
		n.Addresses = nil
	}
	if len(n.PodCIDRs) == 0 {
		n.PodCIDRs = nil
	}
	if len(n.AcceptedKeys) == 0 {
		n.AcceptedKeys = nil
	}
	return n
}

// publish writes the difference between the Pod records in the store and the desired ones: one write per changed Pod.
func (j *joiner) publish(ctx context.Context, snap *model.Snapshot) error {
	want := j.cfg.Pods()
	if snap.Revision < j.publishedAt {
		return nil // the watch has not shown the last writes
	}
	for _, p := range snap.Pods {
		if p.Node != j.cfg.Node {
			continue
		}
		w, ok := want[p.ObjectName]
		delete(want, p.ObjectName)
		switch {
		case !ok:
			if err := j.cfg.Store.DeletePod(ctx, p.ObjectName, j.cfg.Node); err != nil {
				return err
			}
		case !samePod(p, w):
			want[p.ObjectName] = w
		}
	}
	for _, p := range want {
		rev, err := j.cfg.Store.PutPod(ctx, p)
		if err != nil {
			return err
		}
		j.publishedAt = rev
	}
	return nil
}

// samePod compares Pods as the store returns them: an empty map is nil there.
func samePod(a, b model.Pod) bool {
	if len(a.Labels) == 0 && len(b.Labels) == 0 {
		a.Labels, b.Labels = nil, nil
	}
	return reflect.DeepEqual(a, b)
}
