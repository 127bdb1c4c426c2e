// Package systemd notifies the service manager that started this process (sd_notify(3)) and exchanges file descriptors with it. It
// owns nothing. Without $NOTIFY_SOCKET it does nothing.
package systemd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// States of a process (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Notify sends one datagram to $NOTIFY_SOCKET. Errors are ignored: the process works without a service manager.
func Notify(state string) { _ = send(state, nil) }

// errNone: no service manager started this process.
var errNone = errors.New("no service manager: NOTIFY_SOCKET is not set")

// send sends one datagram with descriptors.
func send(state string, rights []byte) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return errNone
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to the service manager: %w", err)
	}
	defer unix.Close(fd)
	// A name that begins with @ is an abstract one. Package net sends no descriptors on a connected datagram socket.
	if err := unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", path, err)
	}
	return nil
}
