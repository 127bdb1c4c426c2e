package model

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var revokedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestRevocations_Filter_RemovesByNameIdentityAndKey(t *testing.T) {
	block := func(node, id string) Block {
		return Block{CIDR: netip.MustParsePrefix("10.42.0.0/24"), Node: node, Identity: id}
	}
	in := &Snapshot{
		Nodes: []Node{{Name: "n1", Identity: "a", PublicKey: Key{1}}, {Name: "n2", Identity: "x", PublicKey: Key{2}},
			{Name: "n3", Identity: "c", PublicKey: Key{3}}, {Name: "n4", Identity: "d", PublicKey: Key{9}}},
		Blocks: []Block{block("n1", "a"), block("n1", "x"), block("n3", "c")},
		Pods:   []Pod{{Node: "n1"}, {Node: "n3"}}}
	list := Revocations{{Node: "n3", Identities: []string{"x"}, PublicKeys: []Key{{9}}, Revoked: revokedAt}}
	out := list.Filter(in)
	if len(out.Nodes) != 1 || out.Nodes[0].Name != "n1" || len(out.Blocks) != 1 || len(out.Pods) != 1 || len(out.Revoked) != 1 {
		t.Errorf("%+v", out)
	}
	if len(in.Nodes) != 4 || len(in.Blocks) != 3 || len(in.Pods) != 2 {
		t.Error("the snapshot was changed")
	}
	list[0].NameAllowed = true
	if out := list.Filter(in); len(out.Nodes) != 2 || len(out.Blocks) != 2 || len(out.Pods) != 2 {
		t.Errorf("with the name allowed: %+v", out)
	}
}

func TestRevocations_Merge_KeepsWhatEitherExcludes(t *testing.T) {
	have := Revocations{{Node: "b", Identities: []string{"1"}, Revoked: revokedAt, Changed: revokedAt}}
	allowed := Revocation{Node: "b", Identities: []string{"2"}, NameAllowed: true, Changed: revokedAt.Add(time.Minute)}
	out, changed := have.Merge(Revocations{{Node: "c"}, allowed, {Node: "a"}})
	if !changed || len(out) != 3 || out[0].Node != "a" || out[2].Node != "c" {
		t.Fatalf("%+v %v", out, changed)
	}
	if b := out[1]; !b.NameAllowed || len(b.Identities) != 2 || !b.Revoked.Equal(revokedAt) {
		t.Errorf("%+v", b)
	}
	if again, changed := out.Merge(have); changed {
		t.Errorf("an earlier version changed it: %+v", again)
	}
	if missing := out.Missing(Revocations{{Node: "a"}, have[0]}); len(missing) != 2 || missing[0].Node != "b" || missing[1].Node != "c" {
		t.Errorf("missing: %+v", missing)
	}
}

func TestRevocations_Merge_IsBounded(t *testing.T) {
	var many Revocations
	for i := range MaxRevocations + 10 {
		many = append(many, Revocation{Node: fmt.Sprint("n", i)})
	}
	if out, _ := (Revocations{}).Merge(many); len(out) != MaxRevocations {
		t.Errorf("%d nodes", len(out))
	}
	var r Revocation
	for i := range MaxRevoked + 10 {
		r = r.Merge(Revocation{Identities: []string{fmt.Sprint(i)}})
	}
	if len(r.Identities) != MaxRevoked {
		t.Errorf("%d identities", len(r.Identities))
	}
}

// A list of junk that was written before does not displace what a later revocation names.
func TestRevocation_Merge_LaterOneCountsBeyondTheBound(t *testing.T) {
	junk := Revocation{Node: "n", Revoked: revokedAt, Changed: revokedAt.Add(time.Hour), NameAllowed: true}
	for i := range MaxRevoked {
		junk.Identities = append(junk.Identities, fmt.Sprint(i))
		junk.PublicKeys = append(junk.PublicKeys, Key{byte(i + 1), 1})
	}
	real := Revocation{Node: "n", Revoked: revokedAt, Changed: revokedAt, Identities: []string{"id"}, PublicKeys: []Key{{9}}}.After(junk)
	for _, out := range []Revocation{junk.Merge(real), real.Merge(junk), junk.Merge(real).Merge(junk)} {
		if !out.Excludes(real) || out.NameAllowed || len(out.Identities) != MaxRevoked || len(out.PublicKeys) != MaxRevoked {
			t.Errorf("%+v", out)
		}
	}
	if junk.Excludes(real) {
		t.Error("the junk excludes the node")
	}
}

func TestRevocation_CheckDates_RefusesTheFuture(t *testing.T) {
	late := revokedAt.Add(MaxAhead + time.Second)
	for _, r := range []Revocation{{Revoked: late}, {Changed: late}} {
		if r.CheckDates(revokedAt) == nil || r.CheckDates(late) != nil {
			t.Errorf("%+v", r)
		}
	}
}
