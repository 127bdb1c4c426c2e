// Package systemd notifies the service manager that started this process (sd_notify(3)). It owns nothing and reads no
// answer. Without $NOTIFY_SOCKET it does nothing.
package systemd

import (
	"net"
	"os"
)

// States of a process (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Notify sends one datagram to $NOTIFY_SOCKET. Errors are ignored: the process works without a service manager.
func Notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
