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

// Listen opens the socket in the run directory. A lock in the same directory ensures that no other agent serves there.
func Listen(dir string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	lock, err := flock.Try(filepath.Join(dir, "agent.lock"))
	if held := (*flock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("another agent runs in %s: %w", dir, err)
	} else if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, err
	}
	old := unix.Umask(0o177) // the socket is root's from its first moment
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &lockedListener{l, lock}, nil
}

// lockedListener keeps the lock as long as the socket is served.
type lockedListener struct {
	net.Listener
	lock *flock.Lock
}

func (l *lockedListener) Close() error { return errors.Join(l.Listener.Close(), l.lock.Close()) }
