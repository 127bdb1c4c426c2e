// Package systemd notifies the service manager that started this process (sd_notify(3)) and exchanges file descriptors with it. It
// owns nothing. Without $NOTIFY_SOCKET it does nothing.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
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
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connect to the service manager: %w", err)
	}
	defer c.Close()
	if _, _, err := c.WriteMsgUnix([]byte(state), rights, nil); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
