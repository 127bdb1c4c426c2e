// Package systemd tells the service manager that started this process how far it is. It owns nothing and never reads anything back;
// without a manager that wants to know, it does nothing.
package systemd

import (
	"net"
	"os"
)

// What a process says of itself (sd_notify(3)).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Notify sends one datagram to $NOTIFY_SOCKET. A manager that does not hear it is no reason to end.
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
