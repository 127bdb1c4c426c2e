package snapshot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
)

func nodes(names ...string) (out []model.Node) {
	for _, n := range names {
		out = append(out, model.Node{Name: n, Identity: "id-" + n, PublicKey: model.Key{n[1]}})
	}
	return out
}

// A revoked node is excluded from the snapshot, also after a restart without the store and after the store has lost the record.
func TestSource_NodeRevoked_IsExcludedForGood(t *testing.T) {
	path := t.TempDir()
	dir := disk.Dir(path)
	s := newTestSource(t, dir, nil)
	r := model.Revocation{Node: "n3", Identities: []string{"id-n3"}, Revoked: time.Now(), Changed: time.Now()}
	expect := func(s *Source, unstored int) {
		t.Helper()
		if snap := s.Load(); len(snap.Nodes) != 1 || snap.Nodes[0].Name != "n1" || len(snap.Revoked) != 1 {
			t.Errorf("%+v", snap)
		}
		if got := s.Unstored(); len(got) != unstored {
			t.Errorf("%d revocations count as lost, expected %d", len(got), unstored)
		}
	}
	s.setRecords(&model.Snapshot{Nodes: nodes("n1", "n3"), Revoked: model.Revocations{r}})
	expect(s, 0)
	s.setRecords(&model.Snapshot{Nodes: nodes("n1", "n3")})
	expect(s, 1)
	// The snapshot on the disk is older than the revocation.
	if err := dir.SetSnapshot(&model.Snapshot{Nodes: nodes("n1", "n3")}); err != nil {
		t.Fatal(err)
	}
	expect(newTestSource(t, dir, nil), 0)
	if err := os.WriteFile(filepath.Join(path, "revoked.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dir.SetSnapshot(&model.Snapshot{Nodes: nodes("n1", "n3"), Revoked: model.Revocations{r}}); err != nil {
		t.Fatal(err)
	}
	expect(newTestSource(t, dir, nil), 0)
}
