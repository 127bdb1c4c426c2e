package tunnel

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/internal/flock"
)

// lockDevice takes the lock that decides which process may attach queues to the device: the kernel would give a second
// process a part of the flows.
func lockDevice(path string) (*flock.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of lock %s: %w", path, err)
	}
	return flock.Try(path)
}
