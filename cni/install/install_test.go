package install

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/warrennet/warren/internal/testutil"
)

func TestPlugin_NewAndUnchangedFile_IsExecutable(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	testutil.Must(t, os.WriteFile(from, []byte("one"), 0o600))
	expect := func(want bool, content string) {
		t.Helper()
		changed, err := Plugin(from, to)
		if err != nil || changed != want {
			t.Errorf("changed %v %v, expected %v", changed, err, want)
		}
		info, err := os.Stat(to)
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%v %v, expected mode 755", info, err)
		}
		if got := string(testutil.Value[[]byte](t)(os.ReadFile(to))); got != content {
			t.Errorf("%q, expected %q", got, content)
		}
	}
	expect(true, "one")
	testutil.Must(t, os.Chmod(to, 0o600))
	expect(false, "one")
	testutil.Must(t, os.WriteFile(from, []byte("two"), 0o600))
	expect(true, "two")
	if entries := testutil.Value[[]os.DirEntry](t)(os.ReadDir(dir)); len(entries) != 2 {
		t.Errorf("%v, expected no temporary files", entries)
	}
}

func TestPlugin_MissingSource_KeepsInstalledPlugin(t *testing.T) {
	to := filepath.Join(t.TempDir(), "to")
	testutil.Must(t, os.WriteFile(to, []byte("old"), 0o755))
	if _, err := Plugin(filepath.Join(t.TempDir(), "none"), to); err == nil {
		t.Error("no error")
	}
	if got := string(testutil.Value[[]byte](t)(os.ReadFile(to))); got != "old" {
		t.Errorf("%q, expected the old plugin", got)
	}
}
