package tunnel

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

func TestLoadOrCreateKey_SecondCall_ReturnsTheSameKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "key")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || again != first || first.IsZero() {
		t.Errorf("second load: %v, same key %v", err, again == first)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadOrCreateKey_Concurrently_AllGetOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([]model.Key, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i], _ = LoadOrCreateKey(path) })
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k.IsZero() {
			t.Fatal("two keys were made")
		}
	}
}

func TestLoadOrCreateKey_UnsafeFile_IsRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := model.Key{1, 2, 3}.String()
	for path, want := range map[string]string{
		write("open", good, 0o644):                 "other users can read it",
		write("group", good, 0o640):                "other users can read it",
		write("garbage", "secret", 0o600):          "expected a private key",
		write("empty", "", 0o600):                  "expected a private key",
		write("zero", model.Key{}.String(), 0o600): "expected a private key",
		dir: "expected a regular file",
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := LoadOrCreateKey(path)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", filepath.Base(path), err, want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), good)) {
				t.Error("the error shows the file's content")
			}
		})
	}
}
