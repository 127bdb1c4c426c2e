package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func expect(t *testing.T, path, content string, perm os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, content)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != perm {
		t.Errorf("mode of %s is %v, %v; want %v", path, st.Mode(), err, perm)
	}
}

func TestWrite_NewFile_HasContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "new", 0o755)
}

func TestWrite_ExistingFile_IsReplacedWithItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("longer old content"), 0o644); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "new", 0o600)
	if old, _ := io.ReadAll(reader); string(old) != "longer old content" {
		t.Errorf("a reader that opened the old file reads %q", old)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("folder holds %v, want f alone", got)
	}
}

func TestWrite_RenameFails_RemovesTheTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o755); err != nil { // no file can replace a folder
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o600); err == nil {
		t.Fatal("no error")
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want f alone", got)
	}
}

func TestWrite_FolderMissing_IsAnError(t *testing.T) {
	if err := Write(filepath.Join(t.TempDir(), "no", "f"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want %v", err, os.ErrNotExist)
	}
}

func TestWriteTo_WriterFails_KeepsTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := WriteTo(path, 0o600, func(w io.Writer) error {
		_, _ = w.Write([]byte("ne"))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error is %v, want %v", err, broken)
	}
	expect(t, path, "old", 0o600)
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("folder holds %v, want f alone", got)
	}
}

func TestWriteNew_FileExists_KeepsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteNew(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteNew(path, []byte("second"), 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("error is %v, want %v", err, os.ErrExist)
	}
	expect(t, path, "first", 0o600)
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("folder holds %v, want f alone", got)
	}
}

func TestFile_Committed_CanBeAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.WriteString("header\n")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("event\n")
	expect(t, path, "header\nevent\n", 0o600)
}

// A killed process leaves its temporary file. It is removed, and every other file stays.
func TestRemoveTemporary_KilledProcess_FileRemoved(t *testing.T) {
	dir := t.TempDir()
	kill := func(name string) {
		t.Helper()
		f, err := Create(filepath.Join(dir, name), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Close() // neither Commit nor Discard
	}
	others := []string{".config", ".tmp-1", "a", "a.tmp-1", ".a.tmp-x", ".a.tmp-1.bak"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kill("a")
	kill("a")
	kill("b")
	if n := len(names(t, dir)); n != len(others)+3 {
		t.Fatalf("%d files, expected %d", n, len(others)+3)
	}
	if err := RemoveTemporary(filepath.Join(dir, "a")); err != nil || len(names(t, dir)) != len(others)+1 {
		t.Errorf("%v: left %q, expected the temporary file of b and %q", err, names(t, dir), others)
	}
	if err := RemoveTemporaryIn(dir); err != nil || len(names(t, dir)) != len(others) {
		t.Errorf("%v: left %q, expected %q", err, names(t, dir), others)
	}
	if err := RemoveTemporaryIn(filepath.Join(dir, "missing")); err != nil {
		t.Error(err)
	}
}
