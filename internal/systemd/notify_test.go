package systemd

import (
	"net"
	"path/filepath"
	"testing"
)

func TestNotify_SocketOfEachKind_ReceivesTheState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	for _, name := range []string{file, "@" + file} {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", name)
		Notify(Ready)
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
			t.Errorf("%s received %q, %v", name, buf[:n], err)
		}
		c.Close()
		Notify(Stopping) // no receiver
	}
	t.Setenv("NOTIFY_SOCKET", "")
	Notify(Ready)
}
