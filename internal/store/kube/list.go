package kube

import (
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// list is sorted by namespace and name. The result of view is never written to: the first change after a view copies the
// list. A burst of changes thus costs one copy and no sorting.
type list[T any] struct {
	name   func(*T) model.ObjectName
	items  []T
	shared bool
}

func (l *list[T]) find(n model.ObjectName) (int, bool) {
	return slices.BinarySearchFunc(l.items, n, func(x T, n model.ObjectName) int { return l.name(&x).Compare(n) })
}

func (l *list[T]) own() {
	if l.shared {
		l.items, l.shared = slices.Clone(l.items), false
	}
}

func (l *list[T]) set(v T) {
	l.own()
	i, found := l.find(l.name(&v))
	if found {
		l.items[i] = v
		return
	}
	l.items = slices.Insert(l.items, i, v)
}

// remove reports whether the list had the value.
func (l *list[T]) remove(n model.ObjectName) bool {
	i, found := l.find(n)
	if found {
		l.own()
		l.items = slices.Delete(l.items, i, i+1)
	}
	return found
}

func (l *list[T]) replace(all []T) {
	slices.SortFunc(all, func(a, b T) int { return l.name(&a).Compare(l.name(&b)) })
	l.items, l.shared = all, false
}

func (l *list[T]) view() []T {
	l.shared = true
	return l.items
}
