package systemd

import (
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Store keeps descriptors in the service manager while the process restarts (FDSTORE, sd_notify(3)). The unit must have
// FileDescriptorStoreMax.
type Store struct{}

// Running reports whether a service manager started this process.
func Running() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Store passes a duplicate of the descriptor to the service manager. Its name has no colon. The service manager keeps it although an
// error is pending on it (FDPOLL=0, systemd 246): a datagram that was refused must not end the tunnel's socket.
func (Store) Store(name string, fd int) error {
	return send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(fd))
}

// Remove closes the descriptors with that name in the service manager.
func (Store) Remove(name string) error { return send("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

// Inherited returns the descriptors that the service manager passed to this process, by name. The caller owns them. It returns them
// once, and child processes do not receive them.
func Inherited() map[string]int {
	out := map[string]int{}
	for _, f := range activation.Files(true) {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		name := f.Name()
		f.Close()
		if _, twice := out[name]; err != nil || twice {
			unix.Close(fd)
			continue
		}
		out[name] = fd
	}
	return out
}
