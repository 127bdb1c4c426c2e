// Package flock takes advisory locks of whole files (flock(2)) that keep a second process from what one process owns.
// The kernel releases a lock when its holder ends, however it ends. The file stays, and is never removed.
package flock

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// HeldError reports that another open file holds the lock.
type HeldError struct {
	Path string
	PID  string // of the holder, as it wrote it into the file; empty if it wrote none
}

func (e *HeldError) Error() string {
	if e.PID == "" {
		return fmt.Sprintf("lock %s: held by another process", e.Path)
	}
	return fmt.Sprintf("lock %s: held by process %s", e.Path, e.PID)
}

// Is makes errors.Is(err, unix.EWOULDBLOCK) true, which is the error of flock(2).
func (e *HeldError) Is(target error) bool { return target == unix.EWOULDBLOCK }

// Lock is a lock that this process holds.
type Lock struct{ f *os.File }

// Try takes the lock of the file at path, or returns a *HeldError at once if another open file holds it. The file is
// made if there is none, and receives the process id of the holder. Its folder must exist; a symbolic link is refused.
func Try(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			var holder [32]byte
			n, _ := f.ReadAt(holder[:], 0)
			return nil, &HeldError{path, strings.TrimSpace(string(holder[:n]))}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		if _, err = fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
			f.Close()
			return nil, fmt.Errorf("write lock %s: %w", path, err)
		}
	}
	return &Lock{f}, nil
}

// Close releases the lock.
func (l *Lock) Close() error { return l.f.Close() }
