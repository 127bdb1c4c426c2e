package flock

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTry_LockHeld_ReportsTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Try(path)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != strconv.Itoa(os.Getpid()) || held.Path != path {
		t.Fatalf("second lock: %v, want a HeldError with this process", err)
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("%v is not EWOULDBLOCK", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Try(path)
	if err != nil {
		t.Fatalf("lock after its release: %v", err)
	}
	again.Close()
}

func TestTry_SymbolicLink_IsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	if err := os.Symlink(filepath.Join(dir, "target"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); !errors.Is(err, unix.ELOOP) {
		t.Errorf("error is %v, want %v", err, unix.ELOOP)
	}
}

func TestTry_FolderMissing_IsAnError(t *testing.T) {
	if _, err := Try(filepath.Join(t.TempDir(), "no", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want %v", err, os.ErrNotExist)
	}
}
