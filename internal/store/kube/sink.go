package kube

import (
	"github.com/warrennet/warren/internal/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// sink receives the objects of a reflector and stores their converted form. The API objects are garbage after conversion.
type sink struct {
	s    *Store
	kind kind
}

var _ cache.TransformingStore = (*sink)(nil)

// Transformer removes the managed fields, which are half of an object's size, while the first list is read.
func (k *sink) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if m, err := meta.Accessor(o); err == nil {
			m.SetManagedFields(nil)
		}
		return o, nil
	}
}

// Add stores a new object.
func (k *sink) Add(o any) error {
	k.s.mu.Lock()
	k.kind.put(o)
	k.s.mu.Unlock()
	k.s.wake()
	return nil
}

// Update stores a changed object.
func (k *sink) Update(o any) error { return k.Add(o) }

// Delete removes an object.
func (k *sink) Delete(o any) error {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	k.s.mu.Lock()
	k.kind.drop(model.ObjectName{Namespace: m.GetNamespace(), Name: m.GetName()})
	k.s.mu.Unlock()
	k.s.wake()
	return nil
}

// Replace replaces all objects of the kind by a list.
func (k *sink) Replace(all []any, _ string) error {
	k.s.mu.Lock()
	k.kind.replace(all)
	delete(k.s.missing, k.kind.name)
	k.s.mu.Unlock()
	k.s.wake()
	return nil
}

// Resync does nothing: the store has no queue.
func (k *sink) Resync() error { return nil }

// notServed reports whether the API server does not have the resource.
func notServed(err error) bool { return apierrors.IsNotFound(err) }

// answered reports whether the error is a regular response of a healthy API server: an expired watch, or a resource that it
// does not have. A forbidden request is not: an operator must fix the role.
func answered(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err)
}

// absent counts a kind as listed and empty.
func (s *Store) absent(k kind) {
	s.mu.Lock()
	delete(s.missing, k.name)
	s.mu.Unlock()
	s.wake()
}
