package snapshot

import (
	"reflect"
	"slices"
	"sync"

	"github.com/warrennet/warren/internal/model"
)

// withPods is the last snapshot that WithPods made.
type withPods struct {
	mu        sync.Mutex
	from, out *model.Snapshot
	pods      []model.Pod
}

// WithPods returns the snapshot of a Kubernetes node with the Pods that are attached to this node, with their host ports: a
// Pod is attached before the API server reports its addresses. It returns the same snapshot as long as neither snap nor attached
// changes. Without Kubernetes, and for nil, it returns snap.
func (s *Source) WithPods(snap *model.Snapshot, attached map[model.ObjectName]model.Pod) *model.Snapshot {
	if s.cfg.Kube == nil || snap == nil {
		return snap
	}
	w := &s.pods
	w.mu.Lock()
	defer w.mu.Unlock()
	pods := joinPods(attached, snap.Pods, s.cfg.Node)
	if w.from != snap || !reflect.DeepEqual(w.pods, pods) {
		out := *snap
		out.Pods = pods
		w.from, w.pods, w.out = snap, pods, &out
	}
	return w.out
}

// joinPods returns the attached Pods of this node and the reported Pods of the others, sorted by name.
func joinPods(attached map[model.ObjectName]model.Pod, reported []model.Pod, node string) (out []model.Pod) {
	for _, p := range attached {
		out = append(out, p)
	}
	for _, p := range reported {
		if p.Node != node {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y model.Pod) int { return x.ObjectName.Compare(y.ObjectName) })
	return out
}
