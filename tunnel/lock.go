package tunnel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lockDevice takes the lock that says who may attach queues to the device: a second process could attach one and
// would be given part of the flows. The lock goes with the process, however it ends; the file stays.
func lockDevice(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of lock %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		var holder [32]byte
		n, _ := f.ReadAt(holder[:], 0)
		f.Close()
		return nil, fmt.Errorf("lock %s: held by process %s: %w", path, strings.TrimSpace(string(holder[:n])), err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write lock %s: %w", path, err)
		}
	}
	return f, nil
}
