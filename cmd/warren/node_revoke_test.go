package main

import (
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/records"
)

// A revocation that does not cover the machine's key or identity does not look like a success.
func TestIncomplete_SharedKey_IsAnError(t *testing.T) {
	done := records.Revoked{Revocation: model.Revocation{Node: "n3"}}
	if err := incomplete(done); err != nil {
		t.Error(err)
	}
	done.Shared = []string{"identity id-n3"}
	if incomplete(done) == nil {
		t.Error("no error")
	}
}
