package model

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Revocation excludes a machine from the cluster: `warren node rm --revoke` writes it. Its records, claims and keys do not
// count, also if they are written again. A revocation is never deleted; Merge combines versions of it.
type Revocation struct {
	Node       string   `json:"node"`
	Identities []string `json:"identities,omitempty"`
	PublicKeys []Key    `json:"publicKeys,omitempty"`
	// Revoked: client certificates with the common name Node that were issued until then are refused by the store.
	Revoked time.Time `json:"revoked"`
	// NameAllowed: another machine may use the name. Identities, keys and certificates remain revoked.
	NameAllowed bool `json:"nameAllowed,omitempty"`
	// Changed is when NameAllowed was set or reset; the later version of it counts.
	Changed time.Time `json:"changed"`
}

// MaxAhead is how far in the future the dates of a revocation may be: clocks differ. Later dates are refused, because a node could
// write a revocation of itself that no later one replaces.
const MaxAhead = 5 * time.Minute

// CheckDates reports a date that is more than MaxAhead after now.
func (r Revocation) CheckDates(now time.Time) error {
	limit := now.Add(MaxAhead)
	switch {
	case r.Revoked.After(limit):
		return fmt.Errorf("revoked is %s, expected a time until %s; compare the clocks of the nodes", r.Revoked, limit.UTC())
	case r.Changed.After(limit):
		return fmt.Errorf("changed is %s, expected a time until %s; compare the clocks of the nodes", r.Changed, limit.UTC())
	}
	return nil
}

// After returns the revocation with dates after those of o, so that it counts in a Merge with o.
func (r Revocation) After(o Revocation) Revocation {
	if !r.Changed.After(o.Changed) {
		r.Changed = o.Changed.Add(1)
	}
	if !r.Revoked.After(o.Revoked) {
		r.Revoked = o.Revoked.Add(1)
	}
	return r
}

// Excludes reports whether the revocation excludes all that o does.
func (r Revocation) Excludes(o Revocation) bool {
	lacks := func(id string) bool { return !slices.Contains(r.Identities, id) }
	lacksKey := func(k Key) bool { return !slices.Contains(r.PublicKeys, k) }
	return r.Node == o.Node && (!r.NameAllowed || o.NameAllowed) && !r.Revoked.Before(o.Revoked) &&
		!slices.ContainsFunc(o.Identities, lacks) && !slices.ContainsFunc(o.PublicKeys, lacksKey)
}

// MaxRevocations bounds a list of revocations, MaxRevoked the identities and keys of one.
const (
	MaxRevocations = 4096
	MaxRevoked     = 64
)

// Merge returns a revocation of the node of o that excludes what either excludes. Beyond MaxRevoked, identities and keys of the
// one that was revoked later count: a node cannot fill the list before it is revoked. The zero Revocation adds nothing.
func (r Revocation) Merge(o Revocation) Revocation {
	r.Node = o.Node
	if o.Changed.After(r.Changed) {
		r.NameAllowed, r.Changed = o.NameAllowed, o.Changed
	}
	later, earlier := r, o
	if o.Revoked.After(r.Revoked) {
		later, earlier = o, r
	}
	r.Revoked = later.Revoked
	r.Identities = union(later.Identities, earlier.Identities)
	r.PublicKeys = union(later.PublicKeys, earlier.PublicKeys)
	return r
}

// union keeps the first MaxRevoked elements.
func union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) && len(out) < MaxRevoked {
			out = append(out, x)
		}
	}
	return out
}

// Equal reports whether both exclude the same.
func (r Revocation) Equal(o Revocation) bool {
	return r.Node == o.Node && r.NameAllowed == o.NameAllowed && r.Revoked.Equal(o.Revoked) && r.Changed.Equal(o.Changed) &&
		slices.Equal(r.Identities, o.Identities) && slices.Equal(r.PublicKeys, o.PublicKeys)
}

// Revocations are sorted by node. A list is never changed; its methods return new ones.
type Revocations []Revocation

// Merge returns a list that excludes what either list excludes, and at most MaxRevocations nodes. changed reports whether it
// differs from the receiver.
func (l Revocations) Merge(more Revocations) (out Revocations, changed bool) {
	out = slices.Clone(l)
	for _, r := range more {
		i, found := slices.BinarySearchFunc(out, r.Node, func(x Revocation, node string) int { return cmp.Compare(x.Node, node) })
		switch {
		case found:
			if m := out[i].Merge(r); !m.Equal(out[i]) {
				out[i], changed = m, true
			}
		case len(out) < MaxRevocations:
			out, changed = slices.Insert(out, i, r), true
		}
	}
	return out, changed
}

// Missing returns the revocations of the list that other lacks, or has in an earlier version.
func (l Revocations) Missing(other Revocations) (out Revocations) {
	have := map[string]Revocation{}
	for _, r := range other {
		have[r.Node] = r
	}
	for _, r := range l {
		if h, ok := have[r.Node]; !ok || !h.Merge(r).Equal(h) {
			out = append(out, r)
		}
	}
	return out
}

// revoked is an index of Revocations: a snapshot of a large cluster is filtered for every change.
type revoked struct {
	names, identities map[string]bool
	keys              map[Key]bool
}

func (l Revocations) index() revoked {
	x := revoked{map[string]bool{}, map[string]bool{}, map[Key]bool{}}
	for _, r := range l {
		if !r.NameAllowed {
			x.names[r.Node] = true
		}
		for _, id := range r.Identities {
			x.identities[id] = true
		}
		for _, k := range r.PublicKeys {
			x.keys[k] = true
		}
	}
	return x
}

// Filter returns the snapshot with the list, and without the records, blocks and Pods of revoked machines.
func (l Revocations) Filter(s *Snapshot) *Snapshot {
	out := *s
	out.Revoked = l
	if len(l) == 0 {
		return &out
	}
	x := l.index()
	out.Nodes = without(s.Nodes, func(n *Node) bool { return x.names[n.Name] || x.identities[n.Identity] || x.keys[n.PublicKey] })
	out.Blocks = without(s.Blocks, func(b *Block) bool { return x.names[b.Node] || x.identities[b.Identity] })
	out.Pods = without(s.Pods, func(p *Pod) bool { return x.names[p.Node] })
	return &out
}

// without returns the list itself if nothing is dropped from it.
func without[T any](list []T, drop func(*T) bool) []T {
	if !slices.ContainsFunc(list, func(x T) bool { return drop(&x) }) {
		return list
	}
	var out []T
	for i := range list {
		if !drop(&list[i]) {
			out = append(out, list[i])
		}
	}
	return out
}
