package agent

import (
	"log/slog"
	"testing"

	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/internal/store/kube"
)

// The metric says whose word traffic and names go by: the last run's until both the store and the API server have spoken.
func TestFromDisk(t *testing.T) {
	dir := disk.Dir(t.TempDir())
	begin := func(k *kubernetes) *Agent {
		t.Helper()
		a := &Agent{cfg: config.Default(), disk: dir, log: slog.New(slog.DiscardHandler), kube: k, kicked: make(chan struct{}, 1), rejoin: make(chan struct{}, 1)}
		if err := a.remember(); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := begin(nil); a.fromDisk() {
		t.Error("an empty disk serves")
	}
	if err := dir.SetSnapshot(&model.Snapshot{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	a := begin(nil)
	if !a.fromDisk() {
		t.Error("the store is away: not from disk")
	}
	a.takeStore(&model.Snapshot{Revision: 4})
	if a.fromDisk() {
		t.Error("the store has answered: from disk")
	}
	a = begin(&kubernetes{first: make(chan struct{})})
	a.takeStore(&model.Snapshot{Revision: 4})
	if !a.fromDisk() {
		t.Error("the API server is away: not from disk")
	}
	a.takeObjects(&kube.Objects{})
	if a.fromDisk() {
		t.Error("both have answered: from disk")
	}
}
