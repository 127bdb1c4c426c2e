package cni

import (
	"slices"
	"strings"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/internal/api"
)

// reader takes the known keys out of an object and collects what is wrong with them.
type reader struct {
	in       tree.Value
	name     string // of the object, with a dot, "" for the configuration itself
	seen     []string
	problems problems
	alien    bool    // a problem is a field that warren does not support
	parent   *reader // gets the problems
}

// get marks a key as known. null counts as absent.
func (r *reader) get(key string, want tree.Kind) tree.Value {
	r.seen = append(r.seen, key)
	v := r.in.Get(key)
	switch v.Kind {
	case want, tree.Absent:
		return v
	case tree.Null:
		return tree.Value{}
	}
	r.root().problems.addf("%s%s: expected %s, found %s", r.name, key, want, abridged(v))
	return tree.Value{}
}

func (r *reader) text(key string) string       { return r.get(key, tree.String).Text }
func (r *reader) object(key string) tree.Value { return r.get(key, tree.Object) }

// texts reads a list of strings.
func (r *reader) texts(key string) (out []string) {
	for _, v := range r.get(key, tree.Array).Items {
		if v.Kind != tree.String {
			r.root().problems.addf("%s%s: expected strings, found %s", r.name, key, abridged(v))
			continue
		}
		out = append(out, v.Text)
	}
	return out
}

// list reads a list of objects.
func (r *reader) list(key string) (out []tree.Value) {
	for _, v := range r.get(key, tree.Array).Items {
		if v.Kind != tree.Object {
			r.root().problems.addf("%s%s: expected objects, found %s", r.name, key, abridged(v))
			continue
		}
		out = append(out, v)
	}
	return out
}

// inside reads an object's own keys.
func (r *reader) inside(key string) *reader {
	return &reader{in: r.object(key), name: r.name + key + ".", parent: r}
}

func (r *reader) root() *reader {
	for r.parent != nil {
		r = r.parent
	}
	return r
}

func (r *reader) unsupported() { r.root().alien = true }

// unknown reports the keys that nobody asked for, but those that ask for nothing.
func (r *reader) unknown(format string) {
	for i, k := range r.in.Names {
		v := r.in.Parts[i]
		empty := r.parent != nil && (v.Kind == tree.Null || v.Kind != tree.Bool && v.Kind != tree.Number && v.Text == "" && len(v.Items)+len(v.Names) == 0)
		if slices.ContainsFunc(r.seen, func(s string) bool { return strings.EqualFold(s, k) }) || strings.HasPrefix(k, "cni.dev/") || empty {
			continue
		}
		r.unsupported()
		r.root().problems.addf(format, k, abridged(v))
	}
}

// err is code 2 when there are unsupported fields, else 7 (CNI 1.1.0, section 5).
func (r *reader) err() error {
	if r.alien {
		return r.problems.err(api.CodeUnsupported, "the network configuration has unsupported fields")
	}
	return r.problems.err(api.CodeConfig, "invalid network configuration")
}

func abridged(v tree.Value) string {
	if len(v.Raw) > 100 {
		return string(v.Raw[:100]) + "..."
	}
	return string(v.Raw)
}
