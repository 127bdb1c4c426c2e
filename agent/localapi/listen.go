package localapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/warrennet/warren/internal/flock"
	"golang.org/x/sys/unix"
)

// SocketName is the local API's socket in the run directory.
const SocketName = "agent.sock"

// Lock ensures that no other agent uses the run directory, which it creates. Close releases it.
func Lock(dir string) (*flock.Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	lock, err := flock.Try(filepath.Join(dir, "agent.lock"))
	if held := (*flock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("another agent runs in %s: %w", dir, err)
	}
	return lock, err
}

// Listen opens the socket in the run directory, whose lock the caller holds. It replaces a socket that an ended agent left.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of the last run: %w", err)
	}
	old := unix.Umask(0o177) // the socket is root's from its first moment
	defer unix.Umask(old)
	return net.Listen("unix", path)
}
