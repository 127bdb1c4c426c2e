package etcd

import (
	"fmt"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// The list is bounded, a full one is an error, and a snapshot has it once and sorted.
func TestTable_RevocationsFull_FurtherOneIsAnError(t *testing.T) {
	x := newTable("/warren/c/")
	for i := range model.MaxRevocations {
		if err := x.revoke(model.Revocation{Node: fmt.Sprintf("n%04d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.revoke(model.Revocation{Node: "further"}); err == nil {
		t.Error("no error")
	}
	if err := x.revoke(model.Revocation{Node: "n0001", Identities: []string{"id"}}); err != nil {
		t.Error(err)
	}
	s := x.snapshot(1)
	if len(s.Revoked) != model.MaxRevocations || s.Revoked[1].Node != "n0001" || len(s.Revoked[1].Identities) != 1 {
		t.Errorf("%d revocations, the second is %+v", len(s.Revoked), s.Revoked[1])
	}
}
