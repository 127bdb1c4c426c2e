package tunnel

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/internal/flock"
)

// lockDevice takes the lock of the process that may attach queues to the device: the kernel would give part of the flows to a queue
// of a second process. The kernel releases the lock when the process ends; the file stays.
func lockDevice(path string) (*flock.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create directory of lock %s: %w", path, err)
	}
	return flock.Try(path)
}
